use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::Bucket;

/// The connections open from each client address, so that one client cannot take them all.
#[derive(Debug, Default)]
pub(super) struct ConnectionLimiter(Mutex<HashMap<Bucket, usize>>);

/// One connection of an address; dropped, its place is free.
pub(super) struct ConnectionPermit {
    limiter: Arc<ConnectionLimiter>,
    address: Bucket,
}

impl ConnectionLimiter {
    /// Takes a connection in, unless its address has `most` already.
    pub(super) fn try_acquire(
        self: &Arc<Self>,
        address: IpAddr,
        most: usize,
    ) -> Option<ConnectionPermit> {
        let address = Bucket::from(address);
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(ConnectionPermit {
            limiter: Arc::clone(self),
            address,
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self
            .limiter
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn an_address_has_its_places_and_no_more_and_gets_them_back() {
        let limiter = Arc::new(ConnectionLimiter::default());
        let enter = |last| limiter.try_acquire(Ipv4Addr::new(127, 0, 0, last).into(), 2);
        let (first, second) = (enter(1).unwrap(), enter(1).unwrap());
        assert!(enter(1).is_none());
        let other = enter(2).unwrap();
        drop(first);
        let third = enter(1).unwrap();
        drop((second, third, other));
        assert!(limiter.0.lock().unwrap().is_empty());
    }
}

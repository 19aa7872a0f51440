use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use nonzero_ext::nonzero;

use crate::model::Wallet;
use crate::store::User;

/// Counts what was committed: raised after a commit and before anybody is told of it.
#[derive(Clone, Default)]
pub(super) struct Commits(Arc<AtomicU64>);

impl Commits {
    pub(super) fn one_more(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// How many there were. Read before what is to be kept is read from the file.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Accounts that were read since the last commit, whatever that changed. Who reads an account again and again, as a page
/// that is open does, asks the file once for each commit; who was told of a commit never sees what was before it.
pub(super) struct Unchanged {
    commits: Commits,
    users: Mutex<LruCache<Wallet, (u64, User)>>,
}

impl Unchanged {
    const CAPACITY: NonZeroUsize = nonzero!(4096usize);

    pub(super) fn since(commits: Commits) -> Self {
        Self {
            commits,
            users: Mutex::new(LruCache::sparse(Self::CAPACITY)),
        }
    }

    /// The account, where it was read since the last commit; else what an account that is read now is to be kept with.
    pub(super) fn user(&self, wallet: &Wallet) -> Result<User, u64> {
        let commits = self.commits.count();
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        match users.get(wallet) {
            Some((at, user)) if *at == commits => Ok(user.clone()),
            _ => Err(commits),
        }
    }

    /// Forgets all that was read so far.
    pub(super) fn forget(&self) {
        self.commits.one_more();
    }

    /// Keeps an account that was read after `commits` were counted.
    pub(super) fn keep(&self, user: &User, commits: u64) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.put(user.wallet_address, (commits, user.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Credits, Timestamp};

    fn user(credits: i64) -> User {
        User {
            wallet_address: Wallet::parse("remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm").unwrap(),
            credits: Credits::from_micro(credits),
            is_miner: false,
            last_mining_at: None,
            created_at: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn an_account_is_kept_until_the_next_commit() {
        let commits = Commits::default();
        let unchanged = Unchanged::since(commits.clone());
        let wallet = user(1).wallet_address;
        let before = unchanged.user(&wallet).unwrap_err();
        unchanged.keep(&user(1), before);
        assert_eq!(unchanged.user(&wallet), Ok(user(1)));
        commits.one_more();
        assert!(unchanged.user(&wallet).is_err());
    }

    #[test]
    fn what_was_read_while_a_commit_came_is_not_given_to_the_next() {
        let commits = Commits::default();
        let unchanged = Unchanged::since(commits.clone());
        let wallet = user(1).wallet_address;
        let before = unchanged.user(&wallet).unwrap_err();
        commits.one_more();
        unchanged.keep(&user(1), before);
        assert!(unchanged.user(&wallet).is_err());
    }
}

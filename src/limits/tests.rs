//! The limiter against a clock that the test advances.

use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};

fn limits(count: u32, clock: &Clock) -> Limits {
    let rate = Rate {
        count: NonZeroU32::new(count).unwrap(),
        per: Duration::from_secs(60),
    };
    Limits::new(|class| (class != RateClass::Health).then_some(rate), clock)
}

#[test]
fn a_burst_passes_then_one_every_twelve_seconds() {
    let clock = Clock::default();
    let limits = limits(5, &clock);
    let check = || {
        limits
            .check(RateClass::Auth, IpAddr::from(Ipv4Addr::LOCALHOST))
            .unwrap()
    };
    for left in (0..5).rev() {
        let decision = check();
        assert_eq!((decision.remaining, decision.retry_after), (left, None));
        assert_eq!(decision.policy(), "\"auth\";q=5;w=60");
    }
    let refused = check();
    assert!(
        seconds_up(refused.retry_after.unwrap()) <= 12,
        "{refused:?}"
    );
    assert!(refused.state().starts_with("\"auth\";r=0;t=1"));
    clock.advance(Duration::from_secs(12));
    assert_eq!(check().retry_after, None);
    assert!(check().retry_after.is_some());
}

#[test]
fn a_class_without_a_rate_and_another_client_are_not_limited() {
    let clock = Clock::default();
    let limits = limits(1, &clock);
    let health = limits.check(RateClass::Health, IpAddr::from(Ipv4Addr::LOCALHOST));
    assert!(health.is_none());
    for last in 1..200 {
        let address = IpAddr::from(Ipv4Addr::new(127, 0, 0, last));
        assert_eq!(
            limits.check(RateClass::Read, address).unwrap().retry_after,
            None
        );
    }
}

#[test]
fn an_ipv6_64_prefix_shares_a_bucket() {
    let limits = limits(1, &Clock::default());
    let check = |text: &str| {
        limits
            .check(
                RateClass::Read,
                text.parse::<Ipv6Addr>().map(IpAddr::from).unwrap(),
            )
            .unwrap()
            .retry_after
    };
    assert_eq!(check("2001:db8::1"), None);
    assert!(check("2001:db8::ffff:1").is_some());
    assert_eq!(check("2001:db8:0:1::1"), None);
}

#[test]
fn the_table_stays_bounded() {
    let limits = limits(1, &Clock::default());
    for client in 0..100_000u32 {
        limits.check(RateClass::Read, IpAddr::from(Ipv4Addr::from_bits(client)));
    }
    let most = CAPACITY.get();
    let held = || limits.entries()[RateClass::Read as usize];
    assert!(held() <= most && held() > most / 2, "{}", held());
}

//! Many tasks at once on the threads of a runtime.

use super::*;

/// Small numbers in a fixed order (splitmix64).
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, most: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        1 + i64::try_from((mixed ^ (mixed >> 31)) >> 1).unwrap() % most
    }
}

/// How often each task of a race goes on; PROPTEST_CASES sets more.
fn rounds(default: u32) -> u32 {
    super::cases(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_charges_of_one_credit_on_a_hundred_credits_are_a_hundred() {
    let one = 1_000_000;
    let bank = Bank::with(100 * one).await;
    let attempts = (0..1_000).map(|_| {
        let store = Arc::clone(bank.store());
        tokio::spawn(async move {
            let hold = store.hold(request(wallet(1), one)).await?;
            store.charge(hold, charge(one), NOW).await.unwrap();
            Ok::<_, StoreError>(())
        })
    });
    let (mut charged, attempts) = (0, attempts.collect::<Vec<_>>());
    for attempt in attempts {
        match attempt.await.unwrap() {
            Ok(()) => charged += 1,
            Err(error) => assert_eq!(error, insufficient(one, 0)),
        }
    }
    assert_eq!((charged, bank.credits(1).await), (100, 0));
    assert_eq!(bank.amounts(1).await.len(), 101);
    bank.assert_sound().await;
}

/// Each task grants what it then needs, so every wallet has exactly the sum of what its tasks are going to use, and each
/// refusal is a false one.
#[tokio::test(flavor = "multi_thread")]
async fn no_wallet_that_has_enough_is_refused_while_charges_debits_and_grants_race() {
    let bank = Bank::new();
    let spending = Spending { row: 1, period: 0 };
    let mut tasks = tokio::task::JoinSet::new();
    let each = rounds(40);
    for task in 0..80 {
        let store = Arc::clone(bank.store());
        let (of, mut dice) = (1 + task % 10, Dice(task.into()));
        tasks.spawn(async move {
            let wallet = wallet(of);
            let mut spent = 0;
            for round in 0..each {
                let price = [1, 30, 700][dice.up_to(3) as usize - 1] + dice.up_to(9);
                let grant = |amount| {
                    let reason = "as the test wants".to_owned();
                    store.grant(wallet, micro(amount), reason, None, Actor::local(NOW), None)
                };
                grant(price).await.unwrap();
                let limit = (task % 3 == 0).then_some((spending, micro(i64::MAX)));
                let held = HoldRequest {
                    limit,
                    ..request(wallet, price)
                };
                let hold = store.hold(held).await.unwrap();
                let used = dice.up_to(price + 1) - 1;
                if round % 5 == 4 {
                    hold.release();
                    grant(-price).await.unwrap();
                    continue;
                }
                store.charge(hold, charge(used), NOW).await.unwrap();
                spent += if limit.is_some() { used } else { 0 };
                if used < price {
                    grant(used - price).await.unwrap();
                }
            }
            spent
        });
    }
    let spent: i64 = tasks.join_all().await.into_iter().sum();
    for of in 1..=10 {
        assert_eq!(bank.credits(of).await, 0);
    }
    let read = move |c: &Connection| value_of(c, &Account::Spending(spending));
    assert_eq!(bank.store().read(read).await, Ok(micro(spent)));
    assert_eq!(bank.store().holds.held(), (0, Credits::ZERO));
    bank.assert_sound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wallet_falls_below_zero_and_no_limit_is_exceeded_while_more_is_asked_than_there_is() {
    let bank = Bank::new();
    for of in 1..=10 {
        bank.give(of, 500).await.unwrap();
    }
    let (spending, limit) = (Spending { row: 1, period: 0 }, 1_700);
    let mut tasks = tokio::task::JoinSet::new();
    let each = rounds(40);
    for task in 0..60 {
        let store = Arc::clone(bank.store());
        let (of, mut dice) = (1 + task % 10, Dice(task.into()));
        tasks.spawn(async move {
            let (wallet, mut gone, mut spent) = (wallet(of), 0, 0);
            for _ in 0..each {
                let amount = dice.up_to(90);
                let signed = match task / 10 {
                    0 => amount / 3,
                    1 => -amount,
                    _ => 0,
                };
                let done = if signed == 0 {
                    let limit = (task % 3 == 0).then_some((spending, micro(limit)));
                    let held = HoldRequest {
                        limit,
                        ..request(wallet, amount)
                    };
                    match store.hold(held).await {
                        Ok(hold) => {
                            let used = dice.up_to(amount + 1) - 1;
                            let charged = store.charge(hold, charge(used), NOW).await.unwrap();
                            assert_eq!(charged.amount, micro(used));
                            gone += used;
                            spent += if limit.is_some() { used } else { 0 };
                            Ok(())
                        }
                        Err(error) => Err(error),
                    }
                } else {
                    let reason = "as the test wants".to_owned();
                    let given = store
                        .grant(wallet, micro(signed), reason, None, Actor::local(NOW), None)
                        .await;
                    given.map(|_| gone -= signed)
                };
                if let Err(error) = done {
                    let is_refusal = match error {
                        StoreError::Insufficient { .. } => true,
                        StoreError::LimitReached { .. } => task % 3 == 0,
                        _ => false,
                    };
                    assert!(is_refusal, "{error}");
                }
            }
            (of, gone, spent)
        });
    }
    let (mut left, mut all) = ([500; 11], 0);
    for (of, gone, spent) in tasks.join_all().await {
        left[of as usize] -= gone;
        all += spent;
    }
    assert!(all <= limit, "{all}");
    let read = move |c: &Connection| value_of(c, &Account::Spending(spending));
    assert_eq!(bank.store().read(read).await, Ok(micro(all)));
    for of in 1..=10 {
        assert_eq!(bank.credits(of).await, left[of as usize]);
        // Nothing is held any more.
        if left[of as usize] > 0 {
            drop(bank.promise(of, left[of as usize]).await.unwrap());
        }
    }
    // Every balance after every entry, too.
    bank.assert_sound().await;
}

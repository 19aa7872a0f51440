//! What a charged chat takes on the disk.

use super::super::super::tests::fresh;
use super::*;

const CHARGES: i64 = 100_000;
const WALLETS: i64 = 100;

#[test]
#[expect(clippy::print_stdout, reason = "the size that was measured")]
fn a_charged_chat_takes_at_most_120_bytes_of_the_database_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.db");
    let c = fresh(&path);
    c.pragma_update(None, "synchronous", "off").unwrap();
    let wallets: Vec<_> = (1..=WALLETS as u32).map(wallet).collect();
    for wallet in &wallets {
        let movement = Movement::new(micro(1_000_000_000_000), "as the test wants");
        grant(&c, wallet, movement, NOW).unwrap();
    }
    let bytes = |c: &Connection| -> i64 {
        c.query_row(sql::CHECKPOINT_TRUNCATE, [], |_| Ok(()))
            .unwrap();
        path.metadata().unwrap().len().try_into().unwrap()
    };
    let before = bytes(&c);
    for batch in 0..100 {
        let transaction = c.unchecked_transaction().unwrap();
        for n in batch * (CHARGES / 100)..(batch + 1) * (CHARGES / 100) {
            // No order that repeats.
            let wallet = wallets[(n * n % 9_973 % WALLETS) as usize];
            let amount = [250_000, 1_000_000, 1_234_567][(n % 3) as usize];
            let at = Timestamp::from_millis(NOW.millis() + 97 * n);
            let request = request(wallet, amount);
            super::super::charge(&c, &request, charge(amount), at).unwrap();
        }
        transaction.commit().unwrap();
    }
    let after = bytes(&c);
    let usage = "SELECT count(*) FROM usage";
    let days: i64 = c.query_row(usage, [], value).unwrap();
    assert!(days <= 2 * WALLETS, "{days}");
    let each = (after - before) as f64 / CHARGES as f64;
    println!("{each:.1} bytes of the database file for each charged chat");
    assert!(each <= 120.0, "{each}");
}

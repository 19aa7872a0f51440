use std::collections::HashMap;
use std::sync::LazyLock;
use std::task::Poll;

use proptest::prelude::*;

use super::*;
use crate::model::Wallet;

static WALLETS: LazyLock<[Wallet; 2]> = LazyLock::new(|| {
    let texts = [
        "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm",
        "remes150rtrmj2f8vl9tem8qpfw36ylw5jg9j2vu34rm",
    ];
    texts.map(|text| Wallet::parse(text).unwrap())
});

fn wallet(at: usize) -> Wallet {
    WALLETS[at]
}

fn row(period: i64) -> Spending {
    Spending { row: 1, period }
}

fn request(at: usize, amount: i64) -> HoldRequest {
    HoldRequest {
        operation: OperationId::new(),
        wallet: wallet(at),
        amount: Credits::from_micro(amount),
        limit: None,
    }
}

fn micro(values: &[(Account, i64)]) -> Vec<(Account, Credits)> {
    let credits = |(account, value): &(Account, i64)| (*account, Credits::from_micro(*value));
    values.iter().map(credits).collect()
}

/// A table that knows these values.
fn table(values: &[(Account, i64)]) -> Arc<HoldTable> {
    let table = Arc::new(HoldTable::default());
    table.publish(micro(values), []);
    table
}

/// An attempt whose accounts are loaded already.
fn hold(table: &Arc<HoldTable>, request: HoldRequest) -> Result<Hold> {
    let arrival = table.lock().next_charge;
    match table.attempt(&request, arrival)? {
        Attempt::Held(hold) => Ok(hold),
        _ => panic!("neither held nor refused"),
    }
}

fn insufficient(needed: i64, balance: i64) -> StoreError {
    StoreError::Insufficient {
        needed: Credits::from_micro(needed),
        balance: Credits::from_micro(balance),
    }
}

#[test]
fn holds_never_promise_more_than_the_balance_and_return_it_when_they_end() {
    let table = table(&[(Account::Wallet(wallet(0)), 10)]);
    let six = hold(&table, request(0, 6)).unwrap();
    assert_eq!(hold(&table, request(0, 5)).unwrap_err(), insufficient(5, 4));
    let four = hold(&table, request(0, 4)).unwrap();
    assert_eq!(table.held(), (2, Credits::from_micro(10)));
    six.release();
    drop(hold(&table, request(0, 6)).unwrap());
    drop(four);
    assert_eq!(table.held(), (0, Credits::ZERO));
}

#[test]
fn a_balance_read_before_a_charge_does_not_replace_the_one_that_the_charge_published() {
    let table = Arc::new(HoldTable::default());
    let account = Account::Wallet(wallet(0));
    let sweeps = table.lock().sweeps;
    let read_before = Credits::from_micro(10);
    table.publish(micro(&[(account, 3)]), []);
    table.insert(account, read_before, sweeps);
    assert_eq!(hold(&table, request(0, 4)).unwrap_err(), insufficient(4, 3));
}

#[test]
fn a_grant_between_a_loads_read_and_its_insert_is_not_forgotten() {
    let table = Arc::new(HoldTable::default());
    let account = Account::Wallet(wallet(0));
    let sweeps = table.lock().sweeps;
    let read_before = Credits::ZERO;
    table.publish(micro(&[(account, 10)]), []);
    table.insert(account, read_before, sweeps);
    assert!(hold(&table, request(0, 10)).is_ok());
}

#[test]
fn a_value_read_before_unused_entries_were_removed_is_read_again() {
    let table = Arc::new(HoldTable::default());
    let account = Account::Wallet(wallet(0));
    let sweeps = table.lock().sweeps;
    table.publish(micro(&[(account, 3)]), []);
    let rows = HoldTable::MAX_ENTRIES as i64;
    let others = (0..rows).map(|period| (Account::Spending(row(period)), 1));
    table.publish(micro(&others.collect::<Vec<_>>()), []);
    table.insert(account, Credits::from_micro(10), sweeps);
    let attempt = table.attempt(&request(0, 4), 0).unwrap();
    assert!(matches!(attempt, Attempt::NotLoaded(_)));
    assert!(table.lock().accounts.len() <= HoldTable::MAX_ENTRIES);
}

#[test]
fn an_entry_with_holds_is_not_removed() {
    let account = Account::Wallet(wallet(0));
    let table = table(&[(account, 3)]);
    let held = hold(&table, request(0, 3)).unwrap();
    let rows = 2 * HoldTable::MAX_ENTRIES as i64;
    let others = (0..rows).map(|period| (Account::Spending(row(period)), 1));
    table.publish(micro(&others.collect::<Vec<_>>()), []);
    assert_eq!(hold(&table, request(0, 1)).unwrap_err(), insufficient(1, 0));
    drop(held);
}

#[test]
fn three_keys_on_one_spending_row_share_its_limit_and_each_period_has_its_own() {
    let table = table(&[
        (Account::Wallet(wallet(0)), 1_000),
        (Account::Spending(row(0)), 40),
        (Account::Spending(row(1)), 0),
    ]);
    let limited = |amount, period| HoldRequest {
        limit: Some((row(period), Credits::from_micro(100))),
        ..request(0, amount)
    };
    let first = hold(&table, limited(30, 0)).unwrap();
    let _second = hold(&table, limited(20, 0)).unwrap();
    let refused = |amount, period| hold(&table, limited(amount, period)).unwrap_err();
    let (needed, available) = (Credits::from_micro(11), Credits::from_micro(10));
    assert_eq!(
        refused(11, 0),
        StoreError::LimitReached { needed, available }
    );
    let _third = hold(&table, limited(10, 0)).unwrap();
    let _tomorrow = hold(&table, limited(100, 1)).unwrap();
    // Charged less than was held: the rest is available again.
    let spent = (Account::Spending(row(0)), 45);
    table.publish(micro(&[spent, (Account::Wallet(wallet(0)), 995)]), [first]);
    let _fourth = hold(&table, limited(25, 0)).unwrap();
    assert!(matches!(refused(1, 0), StoreError::LimitReached { .. }));
}

#[test]
fn there_are_never_more_holds_than_charges_that_may_be_queued() {
    let table = table(&[(Account::Wallet(wallet(0)), 10)]);
    let zero = || hold(&table, request(0, 0));
    let all: Vec<_> = (0..HoldTable::MAX_HOLDS).map(|_| zero().unwrap()).collect();
    assert_eq!(zero().unwrap_err(), StoreError::Busy);
    drop(all);
    assert!(zero().is_ok());
}

#[tokio::test]
async fn who_finds_too_little_waits_for_the_charges_under_way_and_no_longer() {
    let account = Account::Wallet(wallet(0));
    let table = table(&[(account, 10)]);
    let mut first = hold(&table, request(0, 8)).unwrap();
    table.begin_charge(&mut first);
    let read = |_| async { unreachable!("it is loaded") };
    let mut waiting = Box::pin(table.hold(request(0, 7), read));
    assert!(matches!(futures_poll(&mut waiting).await, Poll::Pending));
    // A charge that began later is not waited for.
    let mut later = hold(&table, request(0, 2)).unwrap();
    table.begin_charge(&mut later);
    table.publish(micro(&[(account, 9)]), [first]);
    assert!(waiting.await.is_ok());

    let mut second = hold(&table, request(0, 0)).unwrap();
    table.begin_charge(&mut second);
    let mut waiting = Box::pin(table.hold(request(0, 8), read));
    assert!(matches!(futures_poll(&mut waiting).await, Poll::Pending));
    table.charge_failed(&mut second);
    table.charge_failed(&mut later);
    assert_eq!(waiting.await.unwrap_err(), insufficient(8, 7));
}

#[tokio::test]
async fn a_fault_of_the_storage_ends_the_waiting_and_refuses_new_holds() {
    let table = table(&[(Account::Wallet(wallet(0)), 10)]);
    let mut first = hold(&table, request(0, 8)).unwrap();
    table.begin_charge(&mut first);
    let read = |_| async { unreachable!("it is loaded") };
    let mut waiting = Box::pin(table.hold(request(0, 7), read));
    assert!(matches!(futures_poll(&mut waiting).await, Poll::Pending));
    table.set_fault(Some(StoreError::Full));
    assert_eq!(waiting.await.unwrap_err(), StoreError::Full);
    assert_eq!(hold(&table, request(0, 1)).unwrap_err(), StoreError::Full);
    table.set_fault(None);
    assert!(hold(&table, request(0, 1)).is_ok());
}

async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut *future).poll(context)))
        .await
}

/// One step of the simulation; indices are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    BeginLoad(usize),
    FinishLoad(usize),
    Hold {
        wallet: usize,
        amount: i64,
        limited: bool,
    },
    Release(usize),
    Charge(usize, i64),
    Grant(usize, i64),
    Commit,
    Publish,
    CommitFails,
    /// A COMMIT that returned an error, and whether it happened.
    CommitUnknown(bool),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0usize..16;
    prop_oneof![
        2 => (0usize..3).prop_map(Step::BeginLoad),
        2 => at.clone().prop_map(Step::FinishLoad),
        6 => (0usize..2, 0i64..8, any::<bool>())
            .prop_map(|(wallet, amount, limited)| Step::Hold { wallet, amount, limited }),
        1 => at.clone().prop_map(Step::Release),
        4 => (at, 0i64..8).prop_map(|(at, amount)| Step::Charge(at, amount)),
        1 => (0usize..2, 1i64..6).prop_map(|(wallet, amount)| Step::Grant(wallet, amount)),
        3 => Just(Step::Commit),
        3 => Just(Step::Publish),
        1 => Just(Step::CommitFails),
        1 => any::<bool>().prop_map(Step::CommitUnknown),
        1 => Just(Step::Sweep),
    ]
}

/// A job of the simulated writer.
enum Job {
    Charge(Hold, i64),
    Grant(usize, i64),
}

const LIMIT: i64 = 12;

#[derive(Default)]
struct Simulation {
    table: Arc<HoldTable>,
    /// The values on the disk, and those that were published, which callers may rely on.
    disk: HashMap<Account, i64>,
    published: HashMap<Account, i64>,
    loads: Vec<(Account, i64, u64)>,
    holds: Vec<Hold>,
    queue: Vec<Job>,
    /// The group that is committed and not published.
    group: Option<Group>,
}

/// The values that a group leaves, and the holds that it ends.
type Group = (Vec<(Account, i64)>, Vec<Hold>);

impl Simulation {
    fn new() -> Self {
        let values = [
            (Account::Wallet(wallet(0)), 20),
            (Account::Wallet(wallet(1)), 5),
            (Account::Spending(row(0)), 0),
        ];
        Self {
            disk: values.into(),
            published: values.into(),
            ..Self::default()
        }
    }

    fn account(at: usize) -> Account {
        [
            Account::Wallet(wallet(0)),
            Account::Wallet(wallet(1)),
            Account::Spending(row(0)),
        ][at]
    }

    /// The holds on an account, wherever they are.
    fn held(&self, account: Account) -> i64 {
        let queued = self.queue.iter().filter_map(|job| match job {
            Job::Charge(hold, _) => Some(hold),
            Job::Grant(..) => None,
        });
        let committed = self.group.iter().flat_map(|(_, ended)| ended);
        let all = self.holds.iter().chain(queued).chain(committed);
        let on = all.filter(|hold| hold.request.accounts().any(|other| other == account));
        on.map(|hold| hold.request.amount.micro()).sum()
    }

    fn is_charging(&self, account: Account) -> bool {
        let inner = self.table.lock();
        inner
            .accounts
            .get(&account)
            .is_some_and(|entry| !entry.charges.is_empty())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::BeginLoad(at) => {
                let account = Self::account(at);
                let sweeps = self.table.lock().sweeps;
                self.loads.push((account, self.disk[&account], sweeps));
            }
            Step::FinishLoad(at) => {
                if !self.loads.is_empty() {
                    let (account, value, sweeps) = self.loads.remove(at % self.loads.len());
                    self.table
                        .insert(account, Credits::from_micro(value), sweeps);
                }
            }
            Step::Hold {
                wallet,
                amount,
                limited,
            } => self.hold(wallet, amount, limited),
            Step::Release(at) => {
                if !self.holds.is_empty() {
                    self.holds.remove(at % self.holds.len()).release();
                }
            }
            Step::Charge(at, amount) => {
                if !self.holds.is_empty() {
                    let mut hold = self.holds.remove(at % self.holds.len());
                    self.table.begin_charge(&mut hold);
                    let charged = amount.min(hold.request.amount.micro());
                    self.queue.push(Job::Charge(hold, charged));
                }
            }
            Step::Grant(wallet, amount) => self.queue.push(Job::Grant(wallet, amount)),
            Step::Commit => self.commit(),
            Step::Publish => self.publish(),
            Step::CommitFails => self.not_written(),
            Step::CommitUnknown(happened) => {
                self.publish();
                if happened {
                    self.commit();
                } else {
                    self.not_written();
                }
                // Recovery reads every entry anew.
                let read = |account| (account, self.disk[&account]);
                let values: Vec<_> = self.table.accounts().into_iter().map(read).collect();
                if let Some((published, _)) = &mut self.group {
                    published.extend(values);
                    self.publish();
                }
            }
            Step::Sweep => {
                let mut inner = self.table.lock();
                inner.accounts.retain(|_, entry| entry.holds > 0);
                inner.sweeps += 1;
            }
        }
    }

    fn hold(&mut self, at: usize, amount: i64, limited: bool) {
        let request = HoldRequest {
            limit: limited.then(|| (row(0), Credits::from_micro(LIMIT))),
            ..request(at, amount)
        };
        let arrival = self.table.lock().next_charge;
        let (balance, spent) = (Account::Wallet(wallet(at)), Account::Spending(row(0)));
        let fits = |values: &HashMap<Account, i64>, charged_in_group: bool| {
            let ended = |account| match &self.group {
                Some((_, ended)) if charged_in_group => {
                    let on = ended
                        .iter()
                        .filter(|hold| hold.request.accounts().any(|other| other == account));
                    on.map(|hold| hold.request.amount.micro()).sum()
                }
                _ => 0,
            };
            let held = |account| self.held(account) - ended(account);
            values[&balance] - held(balance) >= amount
                && (!limited || values[&spent] + held(spent) + amount <= LIMIT)
        };
        match self.table.attempt(&request, arrival) {
            Ok(Attempt::Held(hold)) => {
                assert!(fits(&self.disk, true), "held {amount}, which is not there");
                self.holds.push(hold);
            }
            Ok(Attempt::NotLoaded(_)) => {}
            Ok(Attempt::Charging(_)) => {
                assert!(self.is_charging(balance) || (limited && self.is_charging(spent)));
            }
            Err(error) => {
                assert!(
                    !fits(&self.published, false),
                    "refused {amount}, which is there: {error}"
                );
                let refused_by = match error {
                    StoreError::LimitReached { .. } => spent,
                    _ => balance,
                };
                assert!(
                    !self.is_charging(refused_by),
                    "refused {amount} while a charge is under way"
                );
            }
        }
    }

    fn commit(&mut self) {
        self.publish();
        let (mut values, mut ended) = (Vec::new(), Vec::new());
        for job in self.queue.drain(..) {
            let mut add = |account, amount| {
                let value = self.disk.get_mut(&account).unwrap();
                *value += amount;
                values.push((account, *value));
            };
            match job {
                Job::Grant(at, amount) => add(Account::Wallet(wallet(at)), amount),
                Job::Charge(hold, charged) => {
                    add(Account::Wallet(hold.request.wallet), -charged);
                    if let Some((spending, _)) = hold.request.limit {
                        add(Account::Spending(spending), charged);
                    }
                    ended.push(hold);
                }
            }
        }
        for (account, value) in &self.disk {
            let within = match account {
                Account::Wallet(_) => *value >= 0,
                Account::Spending(_) => *value <= LIMIT,
            };
            assert!(within, "{account:?} is {value}");
        }
        self.group = Some((values, ended));
    }

    fn publish(&mut self) {
        if let Some((values, ended)) = self.group.take() {
            self.published.extend(values.iter().copied());
            self.table.publish(micro(&values), ended);
        }
    }

    fn not_written(&mut self) {
        self.publish();
        for job in self.queue.drain(..) {
            if let Job::Charge(mut hold, _) = job {
                self.table.charge_failed(&mut hold);
                self.holds.push(hold);
            }
        }
    }
}

proptest! {
    // PROPTEST_CASES sets more.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(1_000), ..ProptestConfig::default() })]
    #[test]
    fn no_interleaving_promises_more_than_there_is_or_refuses_what_is_there(steps in prop::collection::vec(step(), 1..60)) {
        let mut simulation = Simulation::new();
        for step in steps {
            simulation.step(step);
        }
        simulation.commit();
        simulation.publish();
        simulation.holds.clear();
        prop_assert_eq!(simulation.table.held(), (0, Credits::ZERO));
        let inner = simulation.table.lock();
        for (account, entry) in &inner.accounts {
            prop_assert_eq!((entry.held, entry.holds, entry.charges.len()), (0, 0, 0));
            prop_assert_eq!(entry.value, simulation.disk[account]);
        }
    }
}

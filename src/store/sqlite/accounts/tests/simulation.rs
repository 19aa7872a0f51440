//! Random holds, charges, grants, debits and refunds over a store whose COMMITs fail, or return an error although they
//! happened, whose callers leave, and which is closed and opened again, compared with a model of what was answered.

use proptest::prelude::*;
use rusqlite::Connection;

use super::super::super::verify;
use super::*;
use crate::store::Charged;

const WALLETS: usize = 3;
const PRICES: [i64; 3] = [3, 10, 25];
/// Of each spending row, which the keys of all wallets share, in each period.
const LIMITS: [i64; 2] = [60, 23];

/// A step; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Hold {
        wallet: usize,
        price: usize,
        /// The spending row, if its key has a limit.
        row: Option<usize>,
    },
    /// So much, or all of what is held.
    Charge(usize, i64),
    Release(usize),
    Give(usize, i64),
    Refund(usize),
    /// The caller of what is under way is dropped.
    Leave(usize),
    NextPeriod,
    /// A COMMIT soon returns an error; whether it happens.
    CommitUnknown(bool),
    /// Whether the next fault lasts.
    Lasting(bool),
    /// The writer is kept busy, so that what follows forms one group.
    Busy,
    Open,
    Settle,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0usize..16;
    prop_oneof![
        8 => (0..WALLETS, 0..PRICES.len(), prop::option::of(0..LIMITS.len()))
            .prop_map(|(wallet, price, row)| Step::Hold { wallet, price, row }),
        8 => (at.clone(), 0i64..30).prop_map(|(at, amount)| Step::Charge(at, amount)),
        1 => at.clone().prop_map(Step::Release),
        2 => (0..WALLETS, 1i64..20).prop_map(|(wallet, amount)| Step::Give(wallet, amount)),
        2 => (0..WALLETS, -20i64..0).prop_map(|(wallet, amount)| Step::Give(wallet, amount)),
        1 => at.clone().prop_map(Step::Refund),
        2 => at.prop_map(Step::Leave),
        1 => Just(Step::NextPeriod),
        3 => any::<bool>().prop_map(Step::CommitUnknown),
        2 => any::<bool>().prop_map(Step::Lasting),
        3 => Just(Step::Busy),
        3 => Just(Step::Open),
        2 => Just(Step::Settle),
        1 => Just(Step::Reopen),
    ]
}

/// What a spending row allows in a period.
fn limit(of: &Spending) -> i64 {
    LIMITS[of.row as usize]
}

/// A movement of credits that was asked for.
#[derive(Clone, Debug)]
struct Movement {
    wallet: usize,
    /// What the wallet has more if it happened.
    amount: i64,
    /// What it has less meanwhile.
    held: i64,
    spending: Option<Spending>,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Hold,
    Charge(OperationId),
    /// With the reason, which is another for each.
    Give(String),
    Refund(OperationId),
}

/// How a call ended.
enum End {
    Held(Result<Hold>),
    Charged(Result<Charged, NotWritten>),
    Done(Result<()>),
}

type Call = Pin<Box<dyn Future<Output = End>>>;

struct Simulation {
    bank: Bank,
    file: Option<Connection>,
    open: Option<std::sync::mpsc::Sender<()>>,
    lasting: bool,
    period: i64,
    gives: usize,
    holds: Vec<Hold>,
    charged: Vec<Charged>,
    calls: Vec<(Movement, Call)>,
    /// Those whose caller left.
    left: Vec<Movement>,
    /// What was answered.
    credits: [i64; WALLETS],
    spent: HashMap<Spending, i64>,
}

impl Simulation {
    async fn new() -> Self {
        let bank = Bank::new();
        for at in 0..WALLETS {
            bank.give(at as u32, 40).await.unwrap();
        }
        Self {
            file: Some(Self::connect(&bank)),
            bank,
            open: None,
            lasting: false,
            period: 0,
            gives: 0,
            holds: Vec::new(),
            charged: Vec::new(),
            calls: Vec::new(),
            left: Vec::new(),
            credits: [40; WALLETS],
            spent: HashMap::new(),
        }
    }

    fn connect(bank: &Bank) -> Connection {
        let file = Connection::open(bank.folder.path().join("edge.db")).unwrap();
        file.busy_timeout(std::time::Duration::from_secs(5))
            .unwrap();
        file
    }

    fn file(&self) -> &Connection {
        self.file.as_ref().unwrap()
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Hold { wallet, price, row } => {
                let price = PRICES[price];
                let spending = row.map(|row| Spending {
                    row: row as i64,
                    period: self.period,
                });
                let request = HoldRequest {
                    limit: spending.map(|spending| (spending, micro(limit(&spending)))),
                    ..request(self::wallet(wallet as u32), price)
                };
                let store = Arc::clone(&self.bank);
                let movement = Movement {
                    wallet,
                    amount: 0,
                    held: price,
                    spending,
                    kind: Kind::Hold,
                };
                let call = async move { End::Held(store.hold(request).await) };
                self.call(movement, Box::pin(call)).await;
            }
            Step::Charge(at, amount) => {
                if !self.holds.is_empty() {
                    let hold = self.holds.remove(at % self.holds.len());
                    let amount = hold.request().amount.micro().min(amount);
                    let movement = Movement {
                        amount: -amount,
                        kind: Kind::Charge(hold.request().operation),
                        ..Self::held(&hold)
                    };
                    let store = Arc::clone(&self.bank);
                    let call =
                        async move { End::Charged(store.charge(hold, charge(amount), NOW).await) };
                    self.call(movement, Box::pin(call)).await;
                }
            }
            Step::Release(at) => {
                if !self.holds.is_empty() {
                    self.holds.remove(at % self.holds.len()).release();
                }
            }
            Step::Give(wallet, amount) => {
                self.gives += 1;
                let reason = format!("given {}", self.gives);
                let movement = Movement {
                    wallet,
                    amount,
                    held: (-amount).max(0),
                    spending: None,
                    kind: Kind::Give(reason.clone()),
                };
                let store = Arc::clone(&self.bank);
                let call = async move {
                    let of = self::wallet(wallet as u32);
                    let given = store
                        .grant(of, micro(amount), reason, None, Actor::local(NOW), None)
                        .await;
                    End::Done(given.map(drop))
                };
                self.call(movement, Box::pin(call)).await;
            }
            Step::Refund(at) => {
                if !self.charged.is_empty() {
                    let charged = self.charged.remove(at % self.charged.len());
                    let request = charged.request;
                    let movement = Movement {
                        wallet: Self::number(request.wallet),
                        amount: charged.amount.micro(),
                        held: 0,
                        spending: request.limit.map(|(spending, _)| spending),
                        kind: Kind::Refund(request.operation),
                    };
                    let store = Arc::clone(&self.bank);
                    let call = async move { End::Done(store.refund(charged, None, NOW).await) };
                    self.call(movement, Box::pin(call)).await;
                }
            }
            Step::Leave(at) => {
                if !self.calls.is_empty() {
                    let (movement, call) = self.calls.remove(at % self.calls.len());
                    drop(call);
                    self.left.push(movement);
                }
            }
            Step::NextPeriod => self.period += 1,
            Step::CommitUnknown(true) => self.bank.next_commit_lies(),
            Step::CommitUnknown(false) => self.bank.next_commit_fails(),
            Step::Lasting(lasting) => {
                self.lasting = lasting;
                self.bank.lasting_fault(lasting);
            }
            Step::Busy => {
                if self.open.is_none() {
                    self.open = self.busy().await;
                }
            }
            Step::Open => self.open = None,
            Step::Settle => self.settle().await,
            Step::Reopen => self.reopen().await,
        }
        self.progress().await;
        self.check();
    }

    fn number(of: Wallet) -> usize {
        (0..WALLETS).find(|at| wallet(*at as u32) == of).unwrap()
    }

    fn held(hold: &Hold) -> Movement {
        let request = hold.request();
        Movement {
            wallet: Self::number(request.wallet),
            amount: 0,
            held: request.amount.micro(),
            spending: request.limit.map(|(spending, _)| spending),
            kind: Kind::Hold,
        }
    }

    /// Keeps the writer busy, unless it refuses every write.
    async fn busy(&self) -> Option<std::sync::mpsc::Sender<()>> {
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let (began, begun) = tokio::sync::oneshot::channel();
        let mut job = Box::pin(self.bank.writer.write(1, move |_| {
            let _ = began.send(());
            let _ = gate.recv();
            Ok(((), Written::default()))
        }));
        let _ = poll(&mut job).await;
        // What is undecided may be in front of it, and a fault that lasts.
        if self.lasting {
            drop(open);
            return None;
        }
        begun.await.ok().map(|()| open)
    }

    /// Begins a call; one that is refused at once must not be one that fits in any case.
    async fn call(&mut self, movement: Movement, mut call: Call) {
        let fits = movement.held <= self.available(movement.wallet);
        let within = (movement.spending)
            .is_none_or(|of| movement.held <= limit(&of) - self.spent_at_most(of));
        match poll(&mut call).await {
            Poll::Pending => self.calls.push((movement, call)),
            Poll::Ready(end) => {
                if let End::Held(Err(error)) | End::Done(Err(error)) = &end {
                    match error {
                        StoreError::Insufficient { .. } => assert!(!fits, "{movement:?}: {error}"),
                        StoreError::LimitReached { .. } => assert!(!within, "{movement:?}"),
                        _ => {}
                    }
                }
                self.end(movement, end, false);
            }
        }
    }

    /// Everything that may draw on the credits of a wallet or on a limit now.
    fn under_way(&self) -> impl Iterator<Item = Movement> {
        let calls = self.calls.iter().map(|(movement, _)| movement.clone());
        let holds = self.holds.iter().map(Self::held);
        calls.chain(self.left.iter().cloned()).chain(holds)
    }

    /// What a wallet has available at least.
    fn available(&self, wallet: usize) -> i64 {
        let on = self.under_way().filter(|other| other.wallet == wallet);
        self.credits[wallet] - on.map(|other| other.held).sum::<i64>()
    }

    fn spent_at_most(&self, of: Spending) -> i64 {
        let on = self.under_way().filter(|other| other.spending == Some(of));
        let spent = self.spent.get(&of).copied().unwrap_or_default();
        spent + on.map(|other| other.held.max(other.amount)).sum::<i64>()
    }

    async fn progress(&mut self) {
        for (movement, mut call) in std::mem::take(&mut self.calls) {
            match poll(&mut call).await {
                Poll::Pending => self.calls.push((movement, call)),
                Poll::Ready(end) => self.end(movement, end, false),
            }
        }
    }

    /// The amounts that the ledger has for a movement.
    fn written(&self, kind: &Kind) -> Vec<i64> {
        let select = "SELECT amount FROM ledger WHERE operation = ?1 OR reason = ?2 ORDER BY id";
        let (operation, reason) = match kind {
            Kind::Hold => return Vec::new(),
            Kind::Charge(operation) | Kind::Refund(operation) => (*operation.as_bytes(), ""),
            Kind::Give(reason) => ([0; 16], reason.as_str()),
        };
        all(self.file(), select, params![operation, reason], value).unwrap()
    }

    /// Checks an answer against the file; `closed`: the store was closed with a fault, so an error may be wrong.
    fn end(&mut self, movement: Movement, end: End, closed: bool) {
        let done = match end {
            End::Held(held) => {
                self.holds.extend(held.ok());
                return;
            }
            End::Charged(Ok(charged)) => {
                assert_eq!(charged.amount.micro(), -movement.amount, "{movement:?}");
                if charged.entry.is_some() {
                    self.charged.push(charged);
                }
                true
            }
            End::Charged(Err(failed)) => {
                // It is tried again, or released, as any hold.
                self.holds.extend(failed.hold);
                false
            }
            End::Done(done) => done.is_ok(),
        };
        if !done && closed {
            self.left.push(movement);
            return;
        }
        let before = match &movement.kind {
            Kind::Refund(_) => 1,
            _ => 0,
        };
        let written = &self.written(&movement.kind)[before..];
        if done && movement.amount != 0 {
            assert_eq!(written, [movement.amount], "{movement:?}");
        } else {
            assert_eq!(written, [0i64; 0], "{movement:?}");
        }
        if done {
            self.apply(&movement);
        }
    }

    fn apply(&mut self, movement: &Movement) {
        self.credits[movement.wallet] += movement.amount;
        if let Some(spending) = movement.spending {
            *self.spent.entry(spending).or_default() -= movement.amount;
        }
    }

    /// What must be so at every moment.
    fn check(&self) {
        let report = verify::verify(self.file()).unwrap();
        assert_eq!(report.mistakes, [""; 0]);
        let least: i64 = one(self.file(), "SELECT min(credits) FROM users", [], value).unwrap();
        assert!(least >= 0, "{least}");
        for (of, spent) in self.spending() {
            assert!((0..=limit(&of)).contains(&spent), "{of:?}: {spent}");
        }
    }

    /// What the file says was spent.
    fn spending(&self) -> HashMap<Spending, i64> {
        let read = |row: &Row<'_>| {
            let (id, period) = pair(row)?;
            Ok((Spending { row: id, period }, row.get(2)?))
        };
        let select = "SELECT id, period, spent FROM spending WHERE spent != 0";
        let rows = all(self.file(), select, [], read).unwrap();
        rows.into_iter().collect()
    }

    /// Waits for everything that is under way, and then compares the file and the holds with the model.
    async fn settle(&mut self) {
        self.open = None;
        self.lasting = false;
        self.bank.lasting_fault(false);
        self.bank.writer.faults().commits.lock().unwrap().clear();
        for (movement, call) in std::mem::take(&mut self.calls) {
            let end = call.await;
            self.end(movement, end, false);
        }
        self.bank.settle().await;
        self.compare().await;
    }

    async fn compare(&mut self) {
        for movement in std::mem::take(&mut self.left) {
            let before = usize::from(matches!(movement.kind, Kind::Refund(_)));
            match &self.written(&movement.kind)[before..] {
                [] => {}
                [amount] => {
                    assert_eq!(*amount, movement.amount);
                    self.apply(&movement);
                }
                more => panic!("{movement:?}: {more:?}"),
            }
        }
        let held: i64 = self.holds.iter().map(|hold| Self::held(hold).held).sum();
        assert_eq!(self.bank.holds.held(), (self.holds.len(), micro(held)));
        for at in 0..WALLETS {
            let number = at as u32;
            assert_eq!(self.bank.credits(number).await, self.credits[at]);
            // Exactly what is not held is available.
            let available = self.available(at);
            drop(self.bank.promise(number, available).await.unwrap());
            let more = refused(self.bank.promise(number, available + 1).await);
            assert_eq!(more, insufficient(available + 1, available));
        }
        self.spent.retain(|_, spent| *spent != 0);
        assert_eq!(self.spending(), self.spent);
        self.bank.assert_sound().await;
    }

    async fn reopen(&mut self) {
        self.open = None;
        let store = Arc::clone(&self.bank);
        // The file stays open, so that answers can be compared with it.
        store.close();
        for (movement, call) in std::mem::take(&mut self.calls) {
            let end = call.await;
            self.end(movement, end, self.lasting);
        }
        // Holds end with their process.
        self.holds.clear();
        self.file = None;
        drop(store);
        self.bank.reopen();
        self.file = Some(Self::connect(&self.bank));
        self.lasting = false;
        self.compare().await;
    }
}

/// Each has a file of its own; PROPTEST_CASES sets more.
fn cases() -> ProptestConfig {
    ProptestConfig {
        cases: super::cases(24),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn no_interleaving_loses_or_doubles_a_movement_or_refuses_what_is_there(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut simulation = Simulation::new().await;
            for step in steps {
                simulation.step(step).await;
            }
            simulation.settle().await;
            simulation.holds.clear();
            simulation.compare().await;
        });
    }
}

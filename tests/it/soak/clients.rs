//! Well-behaved clients: each sends a request, pauses, and sends the next, until asked to stop.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method};
use r3mes_edge::model::Timestamp;
use serde_json::{Value, json};

use super::ledger_model::{Account, Kind, LedgerModel, Worker};
use crate::login::{WALLET, signed};
use crate::simulation::Random;
use crate::support::{Answer, Caller};

/// A client.
pub(super) struct Client {
    pub(super) model: Arc<LedgerModel>,
    pub(super) caller: Caller,
    pub(super) admin: Caller,
    /// The index of its account and of its worker.
    pub(super) number: usize,
    /// Unique among the clients.
    pub(super) name: String,
    pub(super) random: Random,
    /// Between two requests, about.
    pub(super) pause: Duration,
    pub(super) turn: u64,
}

impl Client {
    pub(super) fn account(&self) -> &Account {
        &self.model.accounts[self.number % self.model.accounts.len()]
    }

    fn worker(&self) -> &Worker {
        &self.model.workers[self.number]
    }

    /// Pauses; returns whether to continue.
    pub(super) async fn go_on(&mut self) -> bool {
        let most = self.pause.as_micros() as u64 * 2;
        let pause = self.random.below(most.max(1));
        tokio::time::sleep(Duration::from_micros(pause)).await;
        self.turn += 1;
        self.model.goes_on()
    }

    /// Asks as `caller`; the answer, and whether its status is one of those expected.
    pub(super) async fn ask(
        &self,
        caller: &Caller,
        kind: Kind,
        (method, path): (Method, &str),
        headers: &[(&str, &str)],
        body: String,
        expected: &[u16],
    ) -> Option<Answer> {
        let began = Instant::now();
        self.model.count(kind);
        let opened = caller.try_open(method.clone(), path, headers, body).await;
        let Some((status, headers, body)) = opened else {
            self.model
                .violation(format!("{method} {path} was not answered"));
            return None;
        };
        let head = (status, headers);
        let answer = self.whole(kind, (&method, path), began, head, body, expected);
        let (answer, fits) = answer.await?;
        fits.then_some(answer)
    }

    /// Reads an answer to its end and notes it; with whether its status is one of those expected.
    pub(super) async fn whole(
        &self,
        kind: Kind,
        (method, path): (&Method, &str),
        began: Instant,
        (status, headers): (u16, HeaderMap),
        body: Incoming,
        expected: &[u16],
    ) -> Option<(Answer, bool)> {
        let Ok(body) = body.collect().await else {
            self.model
                .violation(format!("the answer of {method} {path} broke off"));
            return None;
        };
        if status < 400 {
            self.model.took(kind, began.elapsed());
        }
        let body = body.to_bytes();
        let answer = Answer {
            status,
            headers,
            body,
        };
        let fits = self.model.note(method, path, began, &answer, expected);
        Some((answer, fits))
    }

    pub(super) async fn get(&self, kind: Kind, path: &str, expected: &[u16]) -> Option<Answer> {
        let asked = (Method::GET, path);
        self.ask(&self.caller, kind, asked, &[], String::new(), expected)
            .await
    }

    /// Retries until the status is expected: errors that a fault explains are retried.
    async fn surely(
        &self,
        caller: &Caller,
        kind: Kind,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
        expected: &[u16],
    ) -> Option<Answer> {
        const TRIES: usize = 3000;
        for _ in 0..TRIES {
            let asked = (Method::POST, path);
            let asked = self.ask(caller, kind, asked, headers, body.to_string(), expected);
            if let Some(answer) = asked.await {
                return Some(answer);
            }
            // Not at once: the cause is known to last for seconds.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.model
            .violation(format!("{path} was never acknowledged"));
        None
    }

    /// A miner sends its samples, one at a time or in batches, each again until it is acknowledged.
    pub(super) async fn mine(mut self) {
        const MANY: i64 = 100;
        while self.go_on().await {
            let worker = self.worker();
            let (kind, count) = match self.turn.is_multiple_of(6) {
                true => (Kind::Batch, MANY),
                false => (Kind::Sample, 1),
            };
            let now = r3mes_edge::Clock::default().now().millis() - worker.from;
            let moments = worker.acknowledged.lock().unwrap().next(count, now);
            let sample = |n: i64| {
                let at = Timestamp::from_millis(worker.from + n).to_string();
                json!({ "worker": worker.name, "recorded_at": at, "hashrate": 40 + n % 5, "gpu_temperature": 60 })
            };
            let mut samples: Vec<_> = moments.clone().map(sample).collect();
            let body = match kind {
                Kind::Batch => samples.into(),
                _ => samples.remove(0),
            };
            let path = "/miner/stats";
            let sent = self.surely(&self.caller, kind, path, &[], &body, &[201]);
            if let Some(answer) = sent.await {
                let accepted = answer.expect(201)["accepted"].clone();
                if accepted != count {
                    self.model
                        .violation(format!("{accepted} of {count} samples"));
                }
                let worker = self.worker();
                worker.acknowledged.lock().unwrap().add(moments);
            }
        }
    }

    /// A dashboard: everything that can be read.
    pub(super) async fn read(mut self) {
        let wallet = self.account().wallet.clone();
        while self.go_on().await {
            let own = |path: &str| path.replace("{}", &wallet);
            let (kind, path) = match self.random.below(14) {
                0..3 => (Kind::Read, "/auth/me".to_owned()),
                3 => (Kind::Read, own("/users/{}")),
                4 => (Kind::Read, own("/miner/stats/{}")),
                5 => (Kind::Read, own("/miner/hashrate/{}?hours=2&resolution=1m")),
                6 => (Kind::Read, own("/miner/earnings/{}?days=7")),
                7 => (Kind::Public, "/network/stats".to_owned()),
                8 => (Kind::Public, "/leaderboard?limit=20".to_owned()),
                9 => (Kind::Chain, "/chain/status".to_owned()),
                10 => (Kind::Chain, "/blocks".to_owned()),
                11 => (Kind::Public, "/health".to_owned()),
                12 => (Kind::Public, self.page_of_the_operator()),
                _ => {
                    self.turn_pages(&wallet).await;
                    continue;
                }
            };
            // Not ready is what `/readyz` may say.
            self.get(kind, &path, &[200]).await;
        }
    }

    fn page_of_the_operator(&mut self) -> String {
        let pages = [
            "/alerts",
            "/metrics",
            "/v1/models",
            "/livez",
            "/readyz",
            "/openapi.json",
            "/",
        ];
        pages[self.random.below(pages.len() as u64) as usize].to_owned()
    }

    /// Some pages of the ledger: each entry older than the one before.
    async fn turn_pages(&mut self, wallet: &str) {
        let mut cursor = String::new();
        let mut before: Option<String> = None;
        for _ in 0..3 {
            let path = format!("/users/{wallet}/ledger?limit=20{cursor}");
            let Some(page) = self.get(Kind::Ledger, &path, &[200]).await else {
                return;
            };
            let page = page.expect(200);
            for entry in page["entries"].as_array().unwrap() {
                let id = entry["id"].as_str().unwrap().to_owned();
                if before.is_some_and(|before| before <= id) {
                    self.model.violation(format!("{path} is not newest first"));
                }
                before = Some(id);
            }
            let Some(next) = page["next_cursor"].as_str() else {
                return;
            };
            cursor = format!("&cursor={next}");
        }
    }

    /// The admin: grants, each asked twice under one key, earnings, and a new account now and then.
    pub(super) async fn grant(mut self) {
        let admin = self.admin.clone();
        while self.go_on().await {
            let whose = self.random.below(self.model.accounts.len() as u64) as usize;
            let (wallet, turn, number) =
                (&self.model.accounts[whose].wallet, self.turn, self.number);
            let id = format!("{}-{turn}", self.name);
            match self.turn % 40 {
                0 | 10 | 20 | 30 => {
                    let earning =
                        json!({ "wallet_address": wallet, "earnings": 2, "source_id": id });
                    let path = "/miner/earnings";
                    let earned = self.surely(&admin, Kind::Grant, path, &[], &earning, &[201, 200]);
                    if earned.await.is_some() {
                        self.granted(whose, 2);
                        // Sent again, it is not counted a second time.
                        self.surely(&admin, Kind::Grant, path, &[], &earning, &[200])
                            .await;
                    }
                }
                1 | 21 => {
                    let wallet =
                        crate::import::address(1_000_000 + (number as u64) * 1_000_000 + turn);
                    let user = json!({ "wallet_address": wallet });
                    let header = [("idempotency-key", id.as_str())];
                    self.surely(&admin, Kind::Grant, "/users", &header, &user, &[201])
                        .await;
                    self.surely(&admin, Kind::Grant, "/users", &[], &user, &[409])
                        .await;
                }
                2 => {
                    let asked = (Method::GET, "/admin/ledger/verify");
                    let none = String::new();
                    let verified = self.ask(&admin, Kind::Ledger, asked, &[], none, &[200]);
                    if let Some(report) = verified.await.map(|answer| answer.expect(200))
                        && report["mistakes"] != json!([])
                    {
                        self.model.violation(report);
                    }
                }
                _ => self.give(&admin, whose, &id).await,
            }
        }
    }

    pub(super) async fn give(&self, admin: &Caller, whose: usize, id: &str) {
        const CREDITS: i64 = 10;
        let path = format!("/users/{}/credits", self.model.accounts[whose].wallet);
        let header = [("idempotency-key", id)];
        let grant = json!({ "amount": CREDITS, "reason": "soak" });
        let given = self.surely(admin, Kind::Grant, &path, &header, &grant, &[200]);
        let Some(given) = given.await else {
            return;
        };
        self.granted(whose, CREDITS);
        let again = self.surely(admin, Kind::Grant, &path, &header, &grant, &[200]);
        if let Some(again) = again.await
            && (again.header("idempotency-replayed") != "true" || again.body != given.body)
        {
            self.model.violation(format!("{id} was not replayed"));
        }
        let other = json!({ "amount": 1, "reason": "soak" }).to_string();
        let asked = (Method::POST, path.as_str());
        self.ask(admin, Kind::Grant, asked, &header, other, &[422])
            .await;
    }

    fn granted(&self, whose: usize, credits: i64) {
        let account = &self.model.accounts[whose];
        account.granted.fetch_add(credits, Ordering::SeqCst);
    }

    /// Creates and revokes keys; a revoked key is refused on the next request.
    pub(super) async fn change_keys(mut self) {
        while self.go_on().await {
            // Each turn from an address of its own: a key that opens nothing any more draws on what its address may do
            // wrong.
            let turn = self.turn.to_be_bytes();
            let address = [127, 1 + self.number as u8, turn[6], turn[7]];
            let user = Caller::at(address.into(), self.caller.base(), None);
            let none = json!({});
            let create = json!({ "name": "soak", "scopes": ["read"] });
            let made = self.surely(&self.caller, Kind::Key, "/api/keys", &[], &create, &[201]);
            let Some(made) = made.await.map(|answer| answer.expect(201)) else {
                continue;
            };
            let old = user.with_key(made["api_key"].as_str().unwrap());
            self.uses(&old, 200).await;
            let id = made["id"].as_str().unwrap();
            let rotate = format!("/api/keys/{id}/rotate");
            let new = self.surely(&self.caller, Kind::Key, &rotate, &[], &none, &[201]);
            let Some(new) = new.await.map(|answer| answer.expect(201)) else {
                continue;
            };
            self.uses(&old, 401).await;
            let id = new["id"].as_str().unwrap();
            let new = user.with_key(new["api_key"].as_str().unwrap());
            self.uses(&new, 200).await;
            let revoke = json!({ "api_key_id": id, "wallet_address": self.account().wallet });
            let path = "/api-keys/revoke";
            self.surely(&self.caller, Kind::Key, path, &[], &revoke, &[200])
                .await;
            self.uses(&new, 401).await;
            self.get(Kind::Key, "/api/keys?limit=5", &[200]).await;
            if self.turn.is_multiple_of(5) {
                self.log_in(&user).await;
            }
        }
    }

    async fn uses(&self, caller: &Caller, expected: u16) {
        let (asked, expected) = ((Method::GET, "/auth/me"), [expected]);
        let asked = self.ask(caller, Kind::Key, asked, &[], String::new(), &expected);
        asked.await;
    }

    /// A wallet logs in and uses its key.
    async fn log_in(&self, user: &Caller) {
        let challenge = json!({ "wallet_address": WALLET });
        let path = "/login/challenge";
        let issued = self.surely(user, Kind::Key, path, &[], &challenge, &[200]);
        let Some(issued) = issued.await.map(|answer| answer.expect(200)) else {
            return;
        };
        let signed = signed(issued["message"].as_str().unwrap()).to_string();
        let asked = (Method::POST, "/login");
        let login = self.ask(user, Kind::Key, asked, &[], signed, &[200]);
        if let Some(login) = login.await {
            let token = login.expect(200)["access_token"].clone();
            self.uses(&user.with_key(token.as_str().unwrap()), 200)
                .await;
        }
    }
}

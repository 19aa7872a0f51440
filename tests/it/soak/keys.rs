//! Fills the bounded key cache before the run, so that it cannot grow during it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use r3mes_edge::auth::{KeyRequest, Scopes};
use r3mes_edge::model::Wallet;
use r3mes_edge::store::{Actor, issue_key};
use r3mes_edge::{Clock, Repository, SqliteStore};
use tokio::task::JoinSet;

use crate::import::address;
use crate::support::{Caller, Process};

/// More than the server keeps in memory, by wallet.
const WALLETS: u64 = 170;
const OF_EACH: usize = 100;

/// Makes the keys in a database that no server has yet.
pub(super) async fn make(database: &Path) -> Vec<Vec<String>> {
    let store: Arc<dyn Repository> = Arc::new(SqliteStore::open(database, true).unwrap());
    let mut made = JoinSet::new();
    for n in 0..WALLETS {
        let store = Arc::clone(&store);
        made.spawn(async move {
            let mut keys = Vec::new();
            for _ in 0..OF_EACH {
                // Other wallets than those of the run.
                let wallet = Wallet::parse(&address(u64::MAX - n)).unwrap();
                let request = KeyRequest {
                    wallet: Some(wallet),
                    name: "many".to_owned(),
                    scopes: Scopes::parse(["read"]).unwrap(),
                    expires_at: None,
                    login: false,
                    limits: None,
                };
                let now = Clock::default().now();
                let issued = issue_key(&*store, request, OF_EACH, Actor::local(now), None).await;
                keys.push(issued.unwrap().key.reveal().to_owned());
            }
            keys
        });
    }
    let keys = made.join_all().await;
    store.close();
    keys
}

/// Uses each key once, from one address per wallet, within every rate limit.
pub(super) async fn use_each(serving: &Process, keys: Vec<Vec<String>>) {
    let mut used = JoinSet::new();
    for (n, keys) in keys.into_iter().enumerate() {
        let from = Ipv4Addr::new(127, 20, 0, n as u8).into();
        let caller = Caller::at(from, &serving.address, None);
        used.spawn(async move {
            for key in keys {
                caller.with_key(&key).get("/auth/me").await.expect(200);
            }
        });
        while used.len() > 8 {
            used.join_next().await.unwrap().unwrap();
        }
    }
    used.join_all().await;
}

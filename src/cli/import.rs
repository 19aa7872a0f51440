//! Taking over keys from a database of the R3MES backend.

use std::path::Path;

use r3mes_edge::Repository;
use r3mes_edge::store::R3mesDatabase;
use serde_json::json;

use super::Failure;
use super::access::{Access, open_failure, store_failure};
use super::settings::Settings;

/// Takes over all keys of the file, and says of each row that was not taken why.
pub(super) async fn keys(settings: &Settings, json: bool, file: &Path) -> Result<(), Failure> {
    const PAGE: usize = 500;
    let store = match Access::open(&settings.config.database).await? {
        Access::File(store) => store,
        Access::Server { address, .. } => {
            let text = format!("the server at {address} has the database; stop it first");
            return Err(Failure::Conflict(text));
        }
    };
    let source = R3mesDatabase::open(file).map_err(open_failure)?;
    let now = r3mes_edge::Clock::default().now();
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    let mut after = i64::MIN;
    loop {
        let rows = source.keys(after, PAGE, now).map_err(store_failure)?;
        let Some((last, _)) = rows.last() else {
            break;
        };
        after = *last;
        let mut page = Vec::new();
        for (row, key) in rows {
            match key {
                Ok(key) => page.push((row, key)),
                Err(why) => refused.push((row, why)),
            }
        }
        let keys = page.iter().map(|(_, key)| key.clone()).collect();
        let new = store.import_keys(keys).await.map_err(store_failure)?;
        for ((row, key), new) in page.into_iter().zip(new) {
            if new {
                taken.push((row, key));
            } else {
                refused.push((row, format!("{} is there already", key.id)));
            }
        }
    }
    refused.sort_by_key(|(row, _)| *row);
    if json {
        let taken: Vec<_> = taken
            .iter()
            .map(|(row, key)| json!({ "row": row, "key": key.shown(now) }))
            .collect();
        let refused: Vec<_> = refused
            .iter()
            .map(|(row, why)| json!({ "row": row, "reason": why }))
            .collect();
        println!("{}", json!({ "taken": taken, "refused": refused }));
        return Ok(());
    }
    for (row, key) in &taken {
        println!("row {row}: taken as {}", key.id);
    }
    for (row, why) in &refused {
        println!("row {row}: refused: {why}");
    }
    println!("{} taken, {} refused", taken.len(), refused.len());
    Ok(())
}

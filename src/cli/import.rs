//! Taking over a whole database of the R3MES backend.

use std::io::{self, BufWriter, Stdout, Write};
use std::path::Path;

use r3mes_edge::SqliteStore;
use r3mes_edge::store::{ImportNote, Imported, R3mesDatabase, R3mesTable};
use serde_json::{Map, Value, json};

use super::Failure;
use super::access::{Access, open_failure, store_failure};
use super::progress::Progress;
use super::settings::Settings;

/// What `--help` says at its end.
pub(super) const HELP: &str = "\
Neither server may run: stop the backend, and r3mes-edge beside whose server this exits with 4.

Every row that was changed or refused is listed with its table, id, field and why, then the
numbers of each table. A balance becomes the ledger's entry \"opening\"; with more than 6 decimal
places it is rounded, half to even. A balance that is missing or negative becomes 0. Reservations
are skipped, and the pending ones counted: the backend takes their credits from a balance when it
confirms them and not before. An amount that is no number, infinite or more than a thousand
million refuses its row. Again, it takes what was not taken yet: also after a crash in the middle.

Exit codes: 0 all rows were taken, or were there already; 1 some rows were refused, all others
taken; or it did not come to its end.

Example: r3mes-edge db import r3mes.db";

/// Rows that are kept in one transaction: enough to share an fsync, few enough to take no memory.
const PAGE: usize = 1000;

pub(super) async fn run(settings: &Settings, json: bool, file: &Path) -> Result<(), Failure> {
    let store = match Access::open(&settings.config.database).await? {
        Access::File(store) => store,
        Access::Server { address, .. } => {
            let text = format!("the server at {address} has the database; stop it first");
            return Err(Failure::Conflict(text));
        }
    };
    let source = R3mesDatabase::open(file).map_err(open_failure)?;
    let mut total = 0;
    let mut tables = Vec::new();
    for table in R3mesTable::ALL {
        let rows = source.rows(table).map_err(store_failure)?;
        total += rows.unwrap_or_default();
        tables.push((table, rows.map(|_| Imported::default())));
    }
    let mut report = Report {
        out: BufWriter::new(io::stdout()),
        json,
        any: false,
        progress: Progress::begin(total, "rows", json),
    };
    report.begin().map_err(unwritten)?;
    let done = take_all(&store, &source, &mut tables, &mut report).await;
    report.end(&tables, done.is_ok()).map_err(unwritten)?;
    done?;
    let refused: u64 = sums(&tables).map(|(_, sums)| sums.refused).sum();
    match refused {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "rows refused: {n}; all others are taken over"
        ))),
    }
}

/// The tables, and what became of their rows; `None` where there is no such table.
type Tables = Vec<(R3mesTable, Option<Imported>)>;

fn sums(tables: &Tables) -> impl Iterator<Item = (R3mesTable, &Imported)> {
    tables
        .iter()
        .filter_map(|(table, sums)| Some((*table, sums.as_ref()?)))
}

async fn take_all(
    store: &SqliteStore,
    source: &R3mesDatabase,
    tables: &mut Tables,
    report: &mut Report,
) -> Result<(), Failure> {
    let now = r3mes_edge::Clock::default().now();
    for (table, sums) in tables {
        let Some(sums) = sums else {
            continue;
        };
        let mut from = Some(i64::MIN);
        while let Some(first) = from {
            let rows = source
                .page(*table, first, PAGE, now)
                .map_err(store_failure)?;
            from = rows.last().and_then(|row| row.id().checked_add(1));
            let read = rows.len() as u64;
            let imported = store.import(rows, now).await.map_err(store_failure)?;
            report.notes(&imported.notes).map_err(unwritten)?;
            report.progress.advance(read);
            sums.taken += imported.taken;
            sums.changed += imported.changed;
            sums.refused += imported.refused;
            sums.there_already += imported.there_already;
            sums.skipped += imported.skipped;
            sums.pending_reservations += imported.pending_reservations;
            sums.accounts_made += imported.accounts_made;
        }
    }
    Ok(())
}

fn unwritten(error: io::Error) -> Failure {
    Failure::Failed(format!(
        "the report could not be written, so the import ends here: {error}"
    ))
}

/// Says what there is to say of the rows as they come, so that no number of them takes memory.
struct Report {
    out: BufWriter<Stdout>,
    json: bool,
    /// Whether there was a note yet.
    any: bool,
    progress: Progress,
}

impl Report {
    fn begin(&mut self) -> io::Result<()> {
        if self.json {
            self.out.write_all(b"{\"rows\":[")?;
        }
        Ok(())
    }

    fn notes(&mut self, notes: &[ImportNote]) -> io::Result<()> {
        if notes.is_empty() {
            return Ok(());
        }
        let (out, json, any) = (&mut self.out, self.json, &mut self.any);
        self.progress.aside(|| {
            for note in notes {
                if json {
                    out.write_all(if *any { b",\n" } else { b"\n" })?;
                    serde_json::to_writer(&mut *out, note)?;
                } else {
                    line(out, note)?;
                }
                *any = true;
            }
            out.flush()
        })
    }

    fn end(&mut self, tables: &Tables, complete: bool) -> io::Result<()> {
        let (out, json) = (&mut self.out, self.json);
        let accounts: u64 = sums(tables).map(|(_, sums)| sums.accounts_made).sum();
        let pending: u64 = sums(tables)
            .map(|(_, sums)| sums.pending_reservations)
            .sum();
        self.progress.aside(|| {
            if json {
                let counts = tables.iter().map(|(table, sums)| {
                    let counts = sums.as_ref().map(|sums| {
                        json!({
                            "taken": sums.taken,
                            "changed": sums.changed,
                            "refused": sums.refused,
                            "there_already": sums.there_already,
                            "skipped": sums.skipped,
                        })
                    });
                    (table.as_str().to_owned(), json!(counts))
                });
                let tables: Map<String, Value> = counts.collect();
                let rest = json!({
                    "tables": tables,
                    "accounts_made": accounts,
                    "pending_reservations": pending,
                    "complete": complete,
                });
                // The rest of the one value, whose beginning was written long ago.
                writeln!(out, "],{}", rest.to_string().trim_start_matches('{'))?;
                return out.flush();
            }
            for (table, sums) in tables {
                let table = table.as_str();
                match sums {
                    None => writeln!(out, "{table}: there is no such table")?,
                    Some(sums) => writeln!(
                        out,
                        "{table}: {} taken, {} changed, {} refused, {} there already, {} skipped",
                        sums.taken, sums.changed, sums.refused, sums.there_already, sums.skipped
                    )?,
                }
            }
            if pending > 0 {
                writeln!(
                    out,
                    "{pending} pending reservations skipped: their credits were never taken from a balance"
                )?;
            }
            writeln!(
                out,
                "{accounts} accounts made for wallets that users does not have"
            )?;
            out.flush()
        })
    }
}

fn line(out: &mut impl Write, note: &ImportNote) -> io::Result<()> {
    write!(out, "{} {}", note.table, note.row)?;
    if let Some(wallet) = note.wallet_address {
        write!(out, " {wallet}")?;
    }
    write!(out, ": {}: {}: {}", note.outcome, note.field, note.reason)?;
    match (&note.old, &note.new) {
        (Some(old), Some(new)) => writeln!(out, ": {old} becomes {new}"),
        (None, Some(new)) => writeln!(out, ": it becomes {new}"),
        _ => writeln!(out),
    }
}

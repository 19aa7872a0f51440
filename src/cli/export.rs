//! The ledger as a table or as JSON, written as it is read.

use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::path::Path;

use clap::ValueEnum;
use r3mes_edge::model::Wallet;
use r3mes_edge::store::{ExportedEntry, LedgerExport, ledger_id};

use super::Failure;
use super::access::open_failure;
use super::output::{Items, unwritten};
use super::progress::Progress;

/// What `--help` says at its end.
pub(super) const HELP: &str = "\
It reads the file itself, beside a running server too, and ends with the entry that was the
newest when it began. Oldest first: a wallet's amounts up to an entry add up to its balance.

CSV is RFC 4180, in UTF-8. A text that a spreadsheet would take for a formula (it begins with
= + - or @) has a ' before it; JSON holds every text as it is.

Example: r3mes-edge ledger export --wallet remes1… > ledger.csv";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A table with a line of names
    Csv,
    /// One array
    Json,
}

pub(super) fn run(
    database: &Path,
    wallet: Option<Wallet>,
    format: Option<Format>,
    json: bool,
) -> Result<(), Failure> {
    let json = match (format, json) {
        (Some(Format::Csv), true) => {
            return Err(Failure::Usage("--json is not --format csv".to_owned()));
        }
        (format, json) => json || format == Some(Format::Json),
    };
    let mut export = LedgerExport::open(database, wallet).map_err(open_failure)?;
    // On a terminal the entries themselves are to be seen.
    let progress = Progress::start("reading the ledger", stdout().is_terminal());
    if json {
        let mut items = Items::begin("[")?;
        each(&mut export, &progress, |entry| items.add(entry))?;
        return items.end("]");
    }
    let mut out = BufWriter::new(stdout());
    let names = "id,wallet_address,amount,balance,reason,reference,note,created_at\r\n";
    out.write_all(names.as_bytes()).map_err(unwritten)?;
    each(&mut export, &progress, |entry| {
        out.write_all(line(entry).as_bytes()).map_err(unwritten)
    })?;
    out.flush().map_err(unwritten)
}

fn each(
    export: &mut LedgerExport,
    progress: &Progress,
    mut take: impl FnMut(&ExportedEntry) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let page = export.page().map_err(open_failure)?;
        if page.is_empty() {
            return Ok(());
        }
        page.iter().try_for_each(&mut take)?;
        progress.reach(export.done());
    }
}

fn line(exported: &ExportedEntry) -> String {
    let (wallet, entry) = (exported.wallet_address, &exported.entry);
    format!(
        "{},{wallet},{},{},{},{},{},{}\r\n",
        ledger_id(entry.id),
        entry.amount,
        entry.balance,
        field(&entry.reason),
        field(entry.reference.as_deref().unwrap_or_default()),
        field(entry.note.as_deref().unwrap_or_default()),
        entry.created_at
    )
}

/// A text as a field (RFC 4180, section 2), which no spreadsheet takes for a formula.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let mark = if formula { "'" } else { "" };
    if text.contains([',', '"', '\r', '\n']) {
        format!("\"{mark}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{mark}{text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The fields of one record, read as RFC 4180 says.
    fn read(record: &str) -> Vec<String> {
        let (mut fields, mut text, mut quoted) = (Vec::new(), String::new(), false);
        let mut rest = record.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '"' if quoted && rest.peek() == Some(&'"') => text.extend(rest.next()),
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(std::mem::take(&mut text)),
                c => {
                    assert!(quoted || !['\r', '\n'].contains(&c), "{record:?}");
                    text.push(c);
                }
            }
        }
        assert!(!quoted, "{record:?}");
        fields.push(text);
        fields
    }

    proptest! {
        #[test]
        fn a_text_is_read_back_as_it_was_but_for_the_mark_before_a_formula(texts in prop::collection::vec("([=+@\t\r\n-]?[a,\"'=\r\n é]{0,6}|\\PC{0,9})", 1..5)) {
            let record: Vec<String> = texts.iter().map(|text| field(text)).collect();
            let read = read(&record.join(","));
            prop_assert_eq!(read.len(), texts.len());
            for (read, text) in read.iter().zip(&texts) {
                prop_assert_eq!(read.strip_prefix('\'').filter(|_| !text.starts_with('\'')).unwrap_or(read), text);
                prop_assert!(!read.starts_with(['=', '+', '-', '@', '\t', '\r']), "{}", read);
            }
        }
    }
}

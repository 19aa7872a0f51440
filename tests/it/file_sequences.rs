//! What an operator does to the files of a database, in random sequences: moved, linked, copied, restored, killed, started.
//! Nothing that was acknowledged is lost: a server that starts has all of it, or refuses to start until the files are back
//! together. And the program deletes no database, no copy and nothing that it replaced.
//!
//! The seed is printed; `FILES_SEED` takes it, `FILES_ROUNDS` says how many sequences there are. The table of what happens
//! is `.github/docs/operations.md`.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use r3mes_edge::{Clock, Repository, SqliteStore};
use serde_json::{Value, json};

use crate::simulation::Random;
use crate::support::{Caller, Process, W1, edge_output, eventually, wallet};

const STEPS: u64 = 20;

/// What is not where it belongs.
enum Away {
    Nothing,
    /// The database file is here, what SQLite has beside it is where it was.
    Main(PathBuf),
    Log(PathBuf),
    /// A second name of the file.
    Linked(PathBuf),
    /// The database file is here, and a copy in its place, beside its log.
    Covered(PathBuf),
}

struct World {
    folder: tempfile::TempDir,
    random: Random,
    names: u32,
    /// The database, and a symbolic link to it.
    home: PathBuf,
    link: PathBuf,
    key: String,
    server: Option<Process>,
    /// Credits whose grant was acknowledged.
    granted: u64,
    away: Away,
    /// Copies and databases that were replaced, with what was acknowledged then.
    copies: Vec<(PathBuf, u64)>,
    replaced: Vec<(PathBuf, u64)>,
    steps: Vec<String>,
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", database.display()))
}

/// Renames a file if it exists.
fn rename(from: &Path, to: &Path) -> bool {
    from.exists() && std::fs::rename(from, to).map(|()| true).unwrap()
}

fn has_log(database: &Path) -> bool {
    std::fs::metadata(beside(database, "-wal")).is_ok_and(|log| log.len() > 0)
}

/// The credits in a database that no server has open.
async fn credits_in(database: &Path) -> u64 {
    let store = SqliteStore::open_read_only(database).unwrap();
    let user = store.user(wallet(W1)).await.unwrap();
    user.credits.micro() as u64 / 1_000_000
}

impl World {
    async fn new(seed: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for place in ["a", "b", "links", "aside"] {
            std::fs::create_dir(root.join(place)).unwrap();
        }
        let home = root.join("a/edge.db");
        let link = root.join("links/link.db");
        symlink(&home, &link).unwrap();
        let server = Process::serve(&home, "");
        let key = std::fs::read_to_string(beside(&home, ".admin-key")).unwrap();
        let mut world = Self {
            folder,
            random: Random(seed),
            names: 0,
            home,
            link,
            key: key.trim().to_owned(),
            server: Some(server),
            granted: 0,
            away: Away::Nothing,
            copies: Vec::new(),
            replaced: Vec::new(),
            steps: Vec::new(),
        };
        world.grant().await;
        world
    }

    /// A name that is not used yet.
    fn aside(&mut self) -> PathBuf {
        self.names += 1;
        self.folder
            .path()
            .canonicalize()
            .unwrap()
            .join(format!("aside/{}.db", self.names))
    }

    fn admin(&self) -> Caller {
        let server = self.server.as_ref().unwrap();
        Caller::new(&server.address, Some(&self.key))
    }

    fn note(&mut self, step: impl Into<String>) {
        self.steps.push(step.into());
    }

    /// Every database, copy and replaced file, by inode.
    fn valuables(&self) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        for place in ["a", "b", "aside"] {
            for file in std::fs::read_dir(self.folder.path().join(place)).unwrap() {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                let passing = ["-wal", "-shm", ".lock", ".toml", ".admin-key"];
                if !passing.iter().any(|suffix| name.ends_with(suffix)) {
                    found.insert(file.metadata().unwrap().ino());
                }
            }
        }
        found
    }

    fn assert_nothing_deleted(&self, before: &BTreeSet<u64>) {
        let now = self.valuables();
        assert!(before.is_subset(&now), "a file was deleted");
    }

    async fn grant(&mut self) {
        if self.server.is_none() {
            return;
        }
        let grant = json!({ "amount": 1, "reason": "test" });
        let path = format!("/users/{W1}/credits");
        let admin = self.admin();
        let is_well = matches!(self.away, Away::Nothing | Away::Covered(_));
        if is_well && self.is_at_home() {
            // Files that were put back are noticed within a second.
            let granted = async || (admin.post(&path, &grant).await.status == 200).then_some(());
            eventually("a grant is acknowledged", granted).await;
            self.granted += 1;
        } else {
            let refused = admin.post(&path, &grant).await;
            refused.refused(503, "storage_unavailable");
        }
        self.note("grant");
    }

    /// Whether the server that runs has been started where the files are now.
    fn is_at_home(&self) -> bool {
        let server = self.server.as_ref();
        server.is_some_and(|server| [&self.home, &self.link].contains(&&server.database))
    }

    async fn end(&mut self) {
        let Some(server) = self.server.take() else {
            return;
        };
        let before = self.valuables();
        match self.random.below(3) {
            0 => {
                assert_eq!(server.terminate(), Some(0));
                self.note("terminate");
            }
            _ => {
                server.kill();
                self.note("kill");
            }
        }
        self.assert_nothing_deleted(&before);
    }

    async fn start(&mut self) {
        if let Away::Log(_) = self.away {
            // Without it a server begins with what is in the file, and warns.
            self.put_back();
        }
        // Nothing of the database is there: a new one would be made, and rightly.
        if self.server.is_some() || (!self.home.exists() && !has_log(&self.home)) {
            return;
        }
        let by_link = self.random.below(3) == 0;
        let path = if by_link { &self.link } else { &self.home };
        let before = self.valuables();
        let started = Process::try_serve(path, "");
        self.assert_nothing_deleted(&before);
        self.note(if started.is_ok() {
            "start"
        } else {
            "refused start"
        });
        match started {
            Ok(server) => {
                self.server = Some(server);
                let user = self.admin().get(&format!("/users/{W1}")).await;
                assert_eq!(user.expect(200)["credits"], self.granted);
                assert!(!matches!(self.away, Away::Linked(_)), "two names");
            }
            Err(log) => {
                assert!(!matches!(self.away, Away::Nothing), "{log}");
                let out = ["restore", "delete the other names", "put that file back"];
                assert!(out.iter().any(|way| log.contains(way)), "{log}");
            }
        }
    }

    /// A start of another server on the file that one serves.
    fn start_second(&mut self) {
        if self.server.is_none() || !matches!(self.away, Away::Nothing) || !self.is_at_home() {
            return;
        }
        let refused = Process::try_serve(&self.link, "").err().unwrap();
        assert!(refused.contains("another r3mes-edge"), "{refused}");
        self.note("second server");
    }

    fn displace(&mut self) {
        if !matches!(self.away, Away::Nothing) || (self.server.is_some() && !self.is_at_home()) {
            return;
        }
        let aside = self.aside();
        match self.random.below(4) {
            0 => {
                rename(&self.home, &aside);
                self.note("move the file");
                self.away = Away::Main(aside);
            }
            // A crashed server's log, or that of one that runs.
            1 if has_log(&self.home) => {
                rename(&beside(&self.home, "-wal"), &aside);
                self.note("move the log");
                self.away = Away::Log(aside);
            }
            2 => {
                std::fs::hard_link(&self.home, &aside).unwrap();
                self.note("hard link");
                self.away = Away::Linked(aside);
            }
            3 if self.server.is_none() && has_log(&self.home) && !self.copies.is_empty() => {
                let copy =
                    self.copies[self.random.below(self.copies.len() as u64) as usize].clone();
                rename(&self.home, &aside);
                std::fs::copy(copy.0, &self.home).unwrap();
                self.note("lay a copy beside the log");
                self.away = Away::Covered(aside);
            }
            _ => {}
        }
    }

    fn put_back(&mut self) {
        match std::mem::replace(&mut self.away, Away::Nothing) {
            Away::Nothing => return,
            Away::Main(aside) | Away::Covered(aside) => {
                rename(&aside, &self.home);
            }
            Away::Log(aside) => {
                // A server that ended meanwhile wrote all of it, and its own log is not there any more.
                rename(&aside, &beside(&self.home, "-wal"));
            }
            Away::Linked(other) => std::fs::remove_file(other).unwrap(),
        }
        self.note("put back");
    }

    /// All files to another folder, also under a running server.
    fn move_all(&mut self) {
        if !matches!(self.away, Away::Nothing) || (self.server.is_some() && !self.is_at_home()) {
            return;
        }
        let root = self.folder.path().canonicalize().unwrap();
        let other = if self.home.starts_with(root.join("a")) {
            "b"
        } else {
            "a"
        };
        let home = root.join(other).join("edge.db");
        for suffix in ["", "-wal", "-shm", ".admin-key"] {
            rename(&beside(&self.home, suffix), &beside(&home, suffix));
        }
        std::fs::remove_file(&self.link).unwrap();
        self.names += 1;
        self.link = root.join(format!("links/{}.db", self.names));
        symlink(&home, &self.link).unwrap();
        self.home = home;
        self.note("move all files");
    }

    async fn copy(&mut self) {
        if !matches!(self.away, Away::Nothing) || (self.server.is_some() && !self.is_at_home()) {
            return;
        }
        let to = self.aside();
        let before = self.valuables();
        let arguments = ["backup", "create", "--to", to.to_str().unwrap()];
        let (code, _, stderr) = edge_output(&self.home, &arguments);
        assert_eq!(code, 0, "{stderr}");
        self.assert_nothing_deleted(&before);
        assert_eq!(credits_in(&to).await, self.granted);
        self.copies.push((to, self.granted));
        self.note("copy");
    }

    /// The file alone, or all files of a database that is not in use, as `cp` copies them.
    async fn copy_by_hand(&mut self) {
        if !matches!(self.away, Away::Nothing) {
            return;
        }
        let to = self.aside();
        let with_log = self.server.is_none() && self.random.below(2) == 0;
        for suffix in if with_log { &["", "-wal"][..] } else { &[""] } {
            let from = beside(&self.home, suffix);
            if from.exists() {
                std::fs::copy(from, beside(&to, suffix)).unwrap();
            }
        }
        self.note(if with_log {
            "cp all files"
        } else {
            "cp the file"
        });
        match Process::try_serve(&to, "") {
            Ok(server) => {
                assert_eq!(server.terminate(), Some(0));
                assert_eq!(credits_in(&to).await, self.granted);
            }
            Err(log) => assert!(!with_log && log.contains("without its log"), "{log}"),
        }
    }

    async fn restore(&mut self) {
        if self.copies.is_empty() || (self.server.is_some() && !self.is_at_home()) {
            return;
        }
        let index = self.random.below(self.copies.len() as u64) as usize;
        let (copy, granted) = self.copies[index].clone();
        let before = self.valuables();
        let arguments = ["--json", "restore", copy.to_str().unwrap()];
        let (code, answer, stderr) = edge_output(&self.home, &arguments);
        self.assert_nothing_deleted(&before);
        if self.server.is_some() {
            // Of a file that was moved away under its server the lock file says so.
            assert_eq!(code, 4, "{stderr}");
            return self.note("restore beside a server");
        }
        if matches!(self.away, Away::Linked(_)) {
            assert!(code == 1 && stderr.contains("hard links"), "{stderr}");
            return self.note("restore of two names");
        }
        assert_eq!(code, 0, "{stderr}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        if let Some(replaced) = answer["replaced"].as_str() {
            let main = PathBuf::from(replaced.trim_end_matches("-wal").trim_end_matches("-shm"));
            // As the operator does who wants it whole.
            match std::mem::replace(&mut self.away, Away::Nothing) {
                Away::Main(aside) | Away::Covered(aside) => drop(rename(&aside, &main)),
                Away::Log(aside) => drop(rename(&aside, &beside(&main, "-wal"))),
                Away::Nothing | Away::Linked(_) => {}
            }
            self.replaced.push((main, self.granted));
        } else if let Away::Main(aside) = std::mem::replace(&mut self.away, Away::Nothing) {
            self.replaced.push((aside, self.granted));
        }
        self.granted = granted;
        self.note("restore");
    }

    async fn run(&mut self) {
        for _ in 0..STEPS {
            match self.random.below(24) {
                0..4 => self.grant().await,
                4..8 => self.end().await,
                8..12 => self.start().await,
                12..16 => self.displace(),
                16..18 => self.put_back(),
                18 => self.move_all(),
                19..21 => self.copy().await,
                21 => self.copy_by_hand().await,
                22 => self.restore().await,
                // It waits five seconds for the lock.
                _ if self.random.below(10) == 0 => self.start_second(),
                _ => self.restore().await,
            }
        }
        self.end().await;
        self.put_back();
        self.start().await;
        self.grant().await;
        self.server.take().unwrap().kill();
        let (code, _, stderr) = edge_output(&self.home, &["ledger", "verify", "--full"]);
        assert_eq!(code, 0, "{stderr}");
        for (file, granted) in self.copies.iter().chain(&self.replaced) {
            assert_eq!(credits_in(file).await, *granted, "{}", file.display());
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_deleted_by_what_is_done_to_files() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let now = Clock::default().now().millis().unsigned_abs();
    let seed = number("FILES_SEED").unwrap_or(now);
    let rounds = number("FILES_ROUNDS").unwrap_or(8);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut steps = std::collections::BTreeMap::<String, u32>::new();
    for round in 0..rounds {
        println!("FILES_SEED={} FILES_ROUNDS=1", seed + round);
        let mut world = runtime.block_on(World::new(seed + round));
        let run = std::panic::AssertUnwindSafe(|| runtime.block_on(world.run()));
        let ended = std::panic::catch_unwind(run);
        if let Err(panic) = ended {
            println!("after {:?}", world.steps);
            std::panic::resume_unwind(panic);
        }
        for step in world.steps {
            *steps.entry(step).or_default() += 1;
        }
    }
    println!("{rounds} sequences: {steps:?}");
}

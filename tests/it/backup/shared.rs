//! Which copies belong to a database, and which of them stay.

use std::path::{Path, PathBuf};
use std::time::Duration;

use r3mes_edge::Clock;
use r3mes_edge::store::{backup_file, backups, prune_backups};

use super::json as parsed;
use crate::support::{Process, edge};

fn create(database: &Path, config: &str, keep: &str) -> PathBuf {
    let arguments = [
        "--config", config, "--json", "backup", "create", "--keep", keep,
    ];
    let (code, output) = edge(database, &arguments);
    assert_eq!(code, 0, "{output}");
    PathBuf::from(parsed(&output)["file"].as_str().unwrap())
}

#[test]
fn two_databases_of_one_name_share_a_folder_and_prune_only_their_own_copies() {
    let folder = tempfile::tempdir().unwrap();
    let copies = folder.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let config = folder.path().join("edge.toml");
    std::fs::write(
        &config,
        format!("[backup]\nfolder = '{}'", copies.display()),
    )
    .unwrap();
    let config = config.to_str().unwrap();
    let databases = ["one", "two"].map(|node| {
        let folder = folder.path().join(node);
        std::fs::create_dir(&folder).unwrap();
        let database = folder.join("edge.db");
        assert_eq!(Process::serve(&database, "").terminate(), Some(0));
        database
    });
    let [one, two] = &databases;
    let of_one = create(one, config, "1");
    let of_two: Vec<_> = (0..4).map(|_| create(two, config, "2")).collect();
    assert!(of_one.exists());
    let exist: Vec<_> = of_two.iter().map(|copy| copy.exists()).collect();
    assert_eq!(exist, [false, false, true, true]);
    let listed = |database: &Path| {
        let listed = backups(database, Some(&copies)).unwrap();
        listed.into_iter().map(|(_, copy)| copy).collect::<Vec<_>>()
    };
    assert_eq!(listed(one), std::slice::from_ref(&of_one));
    assert_eq!(listed(two), of_two[2..]);
    // A restored database is the same one, and goes on with its copies.
    assert_eq!(edge(one, &["restore", of_one.to_str().unwrap()]).0, 0);
    let newer = create(one, config, "1");
    assert_eq!(listed(one), [newer]);
    // Without the database, each of its name may be what is to be restored.
    std::fs::remove_file(two).unwrap();
    assert_eq!(listed(two).len(), 3);
}

#[test]
fn the_copy_that_was_just_made_is_never_deleted_whatever_the_clocks_say() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    assert_eq!(Process::serve(&database, "").terminate(), Some(0));
    let now = Clock::default().now();
    let day = Duration::from_secs(86_400);
    let at = |days: u32| backup_file(&database, None, now.plus(days * day));
    let made = [at(0), at(1), at(2), at(400)];
    for file in &made {
        std::fs::copy(&database, file).unwrap();
    }
    let left = || made.clone().map(|file| file.exists());
    // By a server whose clock is ahead of the one who deletes.
    prune_backups(&database, &made[3], 2, now.plus(2 * day)).unwrap();
    assert_eq!(left(), [false, false, true, true]);
    prune_backups(&database, &made[3], 1, now).unwrap();
    assert_eq!(left(), [false, false, false, true]);
    // A clock that is before all of them.
    prune_backups(&database, &made[3], 0, now.minus(day)).unwrap();
    assert!(made[3].exists());
}

#[test]
fn a_new_database_in_the_place_of_one_that_has_copies_is_logged_with_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("edge.db");
    let warning = |server: &Process| {
        let log = server.log();
        let mut lines = log
            .iter()
            .filter(|line| line.contains("a new database is made there"));
        lines.next().cloned()
    };
    let server = Process::serve(&database, "");
    assert_eq!(warning(&server), None);
    assert_eq!(server.terminate(), Some(0));
    let copies = [(); 2].map(|()| {
        let (code, output) = edge(&database, &["--json", "backup", "create"]);
        assert_eq!(code, 0, "{output}");
        parsed(&output)["file"].as_str().unwrap().to_owned()
    });
    std::fs::remove_file(&database).unwrap();
    let server = Process::serve(&database, "");
    let warning = warning(&server).unwrap();
    assert!(
        warning.contains(&format!("restore {}", copies[1])),
        "{warning}"
    );
    assert_eq!(server.terminate(), Some(0));
    assert_eq!(edge(&database, &["restore", &copies[1]]).0, 0);
}

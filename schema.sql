-- The whole schema of an r3mes-edge database as it is now (user_version 9). A fresh file gets exactly this.
--
-- Times are unix milliseconds, credits are micro-credits (a millionth of a credit), hashes are 32 bytes. A table whose
-- rows are only found by their key has no second tree (WITHOUT ROWID).

-- Which database this is, and which state of it a write-ahead log belongs to. database: in every copy, so that several can
-- share a folder. log: a random number, new in each log that SQLite begins; before: that of the log before it. So the file that
-- a log belongs to has one of the two. open_at: the path at which a process has it open, or had when it was killed.
CREATE TABLE identity (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    database TEXT NOT NULL,
    log      INTEGER NOT NULL,
    before   INTEGER NOT NULL,
    open_at  TEXT
) STRICT;
INSERT INTO identity (id, database, log, before) VALUES (1, lower(hex(randomblob(8))), random(), 0);

-- One row a wallet; other tables refer to its id, a few bytes instead of the address. The balance is never assigned: it moves
-- with a ledger entry in the same transaction. The keys of a blocked account neither pay nor make keys. last_used: when one of
-- its keys was last used, also where that is deleted since.
CREATE TABLE users (
    id             INTEGER PRIMARY KEY,
    wallet         TEXT NOT NULL,
    credits        INTEGER NOT NULL DEFAULT 0 CHECK (credits >= 0),
    total_earnings INTEGER NOT NULL DEFAULT 0 CHECK (total_earnings >= 0),
    created_at     INTEGER NOT NULL,
    blocked        INTEGER NOT NULL DEFAULT 0 CHECK (blocked IN (0, 1)),
    last_used      INTEGER
) STRICT;
-- Which account has this wallet?
CREATE UNIQUE INDEX idx_users_wallet ON users (wallet);

-- Who earned most of all time? (leaderboard)
CREATE INDEX idx_users_total_earnings ON users (total_earnings DESC, wallet) WHERE total_earnings > 0;

-- How many users, credits and ledger entries are there? One row, maintained by triggers, so that no query counts a table.
-- Each movement of a balance has one entry, so the entries need no trigger of their own. Sums end at the largest integer, so
-- that none makes a movement fail; a grant that would exceed it is refused before.
CREATE TABLE totals (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    users   INTEGER NOT NULL,
    credits INTEGER NOT NULL,
    entries INTEGER NOT NULL
) STRICT;
INSERT INTO totals (id, users, credits, entries) VALUES (1, 0, 0, 0);
CREATE TRIGGER users_added AFTER INSERT ON users BEGIN
    UPDATE totals SET users = users + 1, credits = credits + NEW.credits WHERE id = 1;
END;
CREATE TRIGGER users_credits_moved AFTER UPDATE OF credits ON users BEGIN
    UPDATE totals SET credits = min(credits + (NEW.credits - OLD.credits), 9223372036854775807), entries = entries + 1 WHERE id = 1;
END;

-- Every movement of credits, for ever; ids have no gaps. balance is what the wallet had after the entry, so an entry's amount
-- and the balance before it add up to it. operation identifies the movement; a reversing entry has that of what it reverses.
-- Of a charge: the key that paid, and what the model used, where its server reported it; estimated: why the tokens are an
-- estimate (0 the answer broke off, 1 the client left, 2 the server reported none).
CREATE TABLE ledger (
    id                INTEGER PRIMARY KEY,
    user              INTEGER NOT NULL REFERENCES users (id),
    amount            INTEGER NOT NULL,
    balance           INTEGER NOT NULL CHECK (balance >= 0),
    reason            TEXT NOT NULL,
    reference         TEXT,
    operation         BLOB NOT NULL CHECK (length(operation) = 16),
    created_at        INTEGER NOT NULL,
    key               INTEGER REFERENCES key_ids (id),
    adapter           TEXT,
    prompt_tokens     INTEGER,
    cached_tokens     INTEGER,
    completion_tokens INTEGER,
    estimated         INTEGER CHECK (estimated IN (0, 1, 2))
) STRICT;
-- What happened to this wallet's credits, newest first?
CREATE INDEX idx_ledger_user ON ledger (user, id);
CREATE TRIGGER ledger_is_never_changed BEFORE UPDATE ON ledger BEGIN
    SELECT RAISE(ABORT, 'a ledger entry is never changed');
END;
CREATE TRIGGER ledger_is_never_deleted BEFORE DELETE ON ledger BEGIN
    SELECT RAISE(ABORT, 'a ledger entry is never deleted');
END;

-- The ids of keys that paid for something; they outlive the keys.
CREATE TABLE key_ids (
    id  INTEGER PRIMARY KEY,
    key TEXT NOT NULL
) STRICT;
-- Which number has this key?
CREATE UNIQUE INDEX idx_key_ids_key ON key_ids (key);

-- What was used, by wallet, UTC day (days since 1970), key (0 if none) and adapter; updated by each charge. lost: requests that
-- a model worked on and that were not paid, as their client left. Sums end at the largest integer.
CREATE TABLE usage (
    user              INTEGER NOT NULL REFERENCES users (id),
    day               INTEGER NOT NULL,
    key               INTEGER NOT NULL,
    adapter           TEXT NOT NULL,
    requests          INTEGER NOT NULL,
    charged           INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    cached_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    lost              INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (user, day, key, adapter)
) STRICT, WITHOUT ROWID;
-- What was used by all wallets in a period?
CREATE INDEX idx_usage_day ON usage (day);

-- What the keys of one limit spent in a period, which begins at period; id is their limit_id. It outlives the keys.
CREATE TABLE spending (
    id     INTEGER NOT NULL,
    period INTEGER NOT NULL,
    spent  INTEGER NOT NULL,
    PRIMARY KEY (id, period)
) STRICT, WITHOUT ROWID;

-- How far the ledger was verified: its newest entry then. A protection against faults, not against forgers.
CREATE TABLE verified (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    entry INTEGER NOT NULL
) STRICT;
INSERT INTO verified (id, entry) VALUES (1, 0);

-- The clock as it was last known, every five minutes: the server's time, the boot of the machine and the milliseconds since
-- it, and for how many of them the wall clock had kept step. Without a row it was never known.
CREATE TABLE clock (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    at     INTEGER NOT NULL,
    boot   TEXT NOT NULL,
    uptime INTEGER NOT NULL,
    held   INTEGER NOT NULL
) STRICT;

-- API keys: the BLAKE3 hash of each, never the key. An admin's key belongs to no wallet. login: the short-lived key of a
-- wallet login. revoked_at: may be in the future, after a rotation. imported: a key of the R3MES backend; until its
-- first use its hash may be its SHA-256, which is all that the import knows of it. limit_id: where the key has limits, the
-- number under which spending has them, shared with the keys that it made and the one that replaced it. models: a JSON array.
CREATE TABLE api_keys (
    id              TEXT PRIMARY KEY,
    hash            BLOB NOT NULL CHECK (length(hash) = 32),
    start           TEXT NOT NULL,
    wallet          TEXT REFERENCES users (wallet),
    name            TEXT NOT NULL,
    scopes          TEXT NOT NULL,
    created_at      INTEGER NOT NULL,
    expires_at      INTEGER,
    revoked_at      INTEGER,
    last_used       INTEGER,
    login           INTEGER NOT NULL DEFAULT 0 CHECK (login IN (0, 1)),
    imported        INTEGER NOT NULL DEFAULT 0 CHECK (imported IN (0, 1)),
    limit_id        INTEGER,
    models          TEXT,
    credit_limit    INTEGER CHECK (credit_limit > 0),
    credit_period   TEXT CHECK (credit_period IN ('day', 'week', 'month', 'total')),
    max_concurrency INTEGER CHECK (max_concurrency > 0),
    CHECK ((credit_limit IS NULL) = (credit_period IS NULL)),
    CHECK ((limit_id IS NULL) = (coalesce(models, credit_limit, max_concurrency) IS NULL))
) STRICT, WITHOUT ROWID;
-- Whose key is this?
CREATE UNIQUE INDEX idx_api_keys_hash ON api_keys (hash);
-- Which keys has this wallet, newest first?
CREATE INDEX idx_api_keys_wallet ON api_keys (wallet, id);
-- How many active keys has this wallet?
CREATE INDEX idx_api_keys_active ON api_keys (wallet, revoked_at, expires_at) WHERE login = 0;
-- Which login keys have expired?
CREATE INDEX idx_api_keys_login ON api_keys (expires_at) WHERE login = 1;
-- Which other keys of wallets ended long ago?
CREATE INDEX idx_api_keys_revoked ON api_keys (revoked_at) WHERE revoked_at IS NOT NULL AND wallet IS NOT NULL AND imported = 0;
CREATE INDEX idx_api_keys_expired ON api_keys (expires_at) WHERE expires_at IS NOT NULL AND wallet IS NOT NULL AND imported = 0;

-- The miners, each with its latest values; a value that the newest sample left out is that of an earlier one. Samples refer
-- to the id, a few bytes instead of the wallet's address. unit: 0 gradients/h, 1 H/s. rolled_until: the samples before this
-- time are in hashrate_history as well.
CREATE TABLE workers (
    id                 INTEGER PRIMARY KEY,
    wallet             TEXT NOT NULL REFERENCES users (wallet),
    worker             TEXT NOT NULL,
    recorded_at        INTEGER NOT NULL,
    hashrate           REAL NOT NULL,
    unit               INTEGER NOT NULL CHECK (unit IN (0, 1)),
    gpu_temperature    REAL,
    blocks_found       INTEGER,
    uptime_percentage  REAL,
    network_difficulty REAL,
    rolled_until       INTEGER NOT NULL
) STRICT;
-- Which miners has this wallet?
CREATE UNIQUE INDEX idx_workers_wallet ON workers (wallet, worker);
-- Who is mining now?
CREATE INDEX idx_workers_recorded_at ON workers (recorded_at, wallet);
-- Whose samples are to be rolled up?
CREATE INDEX idx_workers_unrolled ON workers (rolled_until) WHERE rolled_until <= recorded_at;

-- Every sample as reported, until retention.raw has passed. The primary key serves "this miner's last hours" and "is it
-- stored already?", so no other index is needed.
CREATE TABLE mining_stats (
    worker             INTEGER NOT NULL REFERENCES workers (id),
    recorded_at        INTEGER NOT NULL,
    hashrate           REAL NOT NULL,
    unit               INTEGER NOT NULL CHECK (unit IN (0, 1)),
    gpu_temperature    REAL,
    blocks_found       INTEGER,
    uptime_percentage  REAL,
    uptime_seconds     INTEGER,
    network_difficulty REAL,
    power_watts        REAL,
    accepted           INTEGER,
    rejected           INTEGER,
    loss               REAL,
    PRIMARY KEY (worker, recorded_at)
) STRICT, WITHOUT ROWID;

-- The hashrate by the minute, the hour and the day (step, in minutes); recorded_at is the start of the period. mean
-- is weighted by how long each sample was the newest, weight (milliseconds) is their sum. A period without samples has no row.
CREATE TABLE hashrate_history (
    worker      INTEGER NOT NULL REFERENCES workers (id),
    step        INTEGER NOT NULL CHECK (step IN (1, 60, 1440)),
    recorded_at INTEGER NOT NULL,
    unit        INTEGER NOT NULL CHECK (unit IN (0, 1)),
    mean        REAL NOT NULL,
    weight      INTEGER NOT NULL CHECK (weight > 0),
    min         REAL NOT NULL,
    max         REAL NOT NULL,
    samples     INTEGER NOT NULL,
    PRIMARY KEY (worker, step, recorded_at, unit)
) STRICT, WITHOUT ROWID;

-- What a miner earned; each earning granted its credits in the same transaction, but for those of an R3MES backend, whose
-- balance holds them already.
CREATE TABLE earnings_history (
    source_id   TEXT PRIMARY KEY,
    wallet      TEXT NOT NULL REFERENCES users (wallet),
    earnings    INTEGER NOT NULL CHECK (earnings > 0),
    recorded_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- What did this wallet earn each day?
CREATE INDEX idx_earnings_history_wallet ON earnings_history (wallet, recorded_at, earnings);
-- Who earned most since a moment? (leaderboard of a day, a week, a month)
CREATE INDEX idx_earnings_history_time ON earnings_history (recorded_at, wallet, earnings);

-- The response to a request with an Idempotency-Key, stored in the same transaction as its effect. principal: its scope,
-- "admin" or a wallet, method and route; key: hash of scope and header; request: hash of the request; answer: the body, or
-- where that is not stored the id of the created row.
CREATE TABLE idempotency (
    key        BLOB PRIMARY KEY CHECK (length(key) = 32),
    principal  TEXT NOT NULL,
    request    BLOB NOT NULL CHECK (length(request) = 32),
    status     INTEGER NOT NULL,
    answer     TEXT,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- Which is the oldest of this scope?
CREATE INDEX idx_idempotency_principal ON idempotency (principal, expires_at);
-- Which have expired?
CREATE INDEX idx_idempotency_expires_at ON idempotency (expires_at);

-- Who changed what: a row for each administrative change, written in its transaction. actor: the id of a key, or local: and a
-- user id for a process on the file itself; address: the client's; action and target: what was done to what; amount: the
-- credits that it added; reason: where one was stated. Never a secret.
CREATE TABLE audit (
    id         INTEGER PRIMARY KEY,
    created_at INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    address    TEXT,
    action     TEXT NOT NULL,
    target     TEXT NOT NULL,
    amount     INTEGER,
    reason     TEXT
) STRICT;
-- Which have expired?
CREATE INDEX idx_audit_created_at ON audit (created_at);
CREATE TRIGGER audit_is_never_changed BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'an audit entry is never changed');
END;
-- INSERT OR REPLACE fires no trigger on DELETE. An id that SQLite is to choose is -1 here.
CREATE TRIGGER audit_is_never_replaced BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id) BEGIN
    SELECT RAISE(ABORT, 'an audit entry is never replaced');
END;
-- Two years, 63072000000 ms, before the newest entry: a bound in the table itself, which needs no clock, spares the newest entry
-- and holds for every program that opens the file.
CREATE TRIGGER audit_is_deleted_after_two_years BEFORE DELETE ON audit
WHEN OLD.created_at >= (SELECT created_at FROM audit WHERE id = (SELECT max(id) FROM audit)) - 63072000000 BEGIN
    SELECT RAISE(ABORT, 'an audit entry is stored for two years');
END;

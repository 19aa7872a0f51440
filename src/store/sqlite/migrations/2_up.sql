-- Miners get an id, under which samples and history take a third of the room; the history gets minutes and days, and means
-- weighted by time. A minute of samples is marked as late, so that it is rolled up again from them.
ALTER TABLE workers RENAME TO workers_1;
ALTER TABLE mining_stats RENAME TO mining_stats_1;
ALTER TABLE hashrate_history RENAME TO hashrate_history_1;
DROP INDEX idx_workers_recorded_at;
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
CREATE UNIQUE INDEX idx_workers_wallet ON workers (wallet, worker);
CREATE INDEX idx_workers_recorded_at ON workers (recorded_at, wallet);
CREATE INDEX idx_workers_unrolled ON workers (rolled_until) WHERE rolled_until <= recorded_at;
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
CREATE TABLE late_minutes (
    worker      INTEGER NOT NULL REFERENCES workers (id),
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (worker, recorded_at)
) STRICT, WITHOUT ROWID;
INSERT INTO workers (wallet, worker, recorded_at, hashrate, unit, gpu_temperature, blocks_found, uptime_percentage,
    network_difficulty, rolled_until)
SELECT wallet, worker, recorded_at, hashrate, unit = 'H/s', gpu_temperature, blocks_found, uptime_percentage,
    network_difficulty, recorded_at - recorded_at % 3600000
FROM workers_1 ORDER BY wallet, worker;
INSERT INTO mining_stats
SELECT w.id, s.recorded_at, s.hashrate, s.unit = 'H/s', s.gpu_temperature, s.blocks_found, s.uptime_percentage,
    s.uptime_seconds, s.network_difficulty, s.power_watts, s.accepted, s.rejected, s.loss
FROM mining_stats_1 s JOIN workers w ON w.wallet = s.wallet AND w.worker = s.worker;
INSERT INTO late_minutes
SELECT DISTINCT s.worker, s.recorded_at - s.recorded_at % 60000
FROM mining_stats s JOIN workers w ON w.id = s.worker WHERE s.recorded_at < w.rolled_until;
-- The hours as they are until then, each sample counted for ten seconds, as often as the collector takes one. The last
-- hour is read from its samples.
INSERT INTO hashrate_history
SELECT w.id, 60, h.recorded_at, h.unit = 'H/s', h.total / h.samples, 10000 * h.samples, h.min, h.max, h.samples
FROM hashrate_history_1 h JOIN workers w ON w.wallet = h.wallet AND w.worker = h.worker
WHERE h.recorded_at < w.rolled_until;
INSERT INTO hashrate_history
SELECT worker, 1440, recorded_at - recorded_at % 86400000, unit, sum(mean * weight) / sum(weight), sum(weight), min(min),
    max(max), sum(samples)
FROM hashrate_history WHERE step = 60 GROUP BY worker, recorded_at - recorded_at % 86400000, unit;
DROP TABLE hashrate_history_1;
DROP TABLE mining_stats_1;
DROP TABLE workers_1;

-- Miners get an id, under which samples and history take a third of the room; the history gets minutes and days, and means
-- weighted by time. What version 1 had is in the tables with _1 behind their names. Those of version 2 are there where
-- not all of it had been taken back to version 1.
DROP INDEX idx_workers_recorded_at;
CREATE TABLE IF NOT EXISTS workers (
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
CREATE TABLE IF NOT EXISTS mining_stats (
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
CREATE TABLE IF NOT EXISTS hashrate_history (
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
CREATE TABLE IF NOT EXISTS late_minutes (
    worker      INTEGER NOT NULL REFERENCES workers (id),
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (worker, recorded_at)
) STRICT, WITHOUT ROWID;
-- The last hour of a miner is read from its samples, that of one which has fallen silent from the hours of version 1.
INSERT INTO workers (wallet, worker, recorded_at, hashrate, unit, gpu_temperature, blocks_found, uptime_percentage,
    network_difficulty, rolled_until)
SELECT o.wallet, o.worker, o.recorded_at, o.hashrate, o.unit = 'H/s', o.gpu_temperature, o.blocks_found, o.uptime_percentage,
    o.network_difficulty, o.recorded_at - o.recorded_at % 3600000 + iif(o.recorded_at > n.newest - 3600000, 0, 3600000)
FROM workers_1 o JOIN (SELECT wallet, max(recorded_at) AS newest FROM workers_1 GROUP BY wallet) n ON n.wallet = o.wallet
WHERE true ORDER BY o.wallet, o.worker
ON CONFLICT (wallet, worker) DO UPDATE SET recorded_at = excluded.recorded_at, hashrate = excluded.hashrate, unit = excluded.unit,
    gpu_temperature = excluded.gpu_temperature, blocks_found = excluded.blocks_found,
    uptime_percentage = excluded.uptime_percentage, network_difficulty = excluded.network_difficulty,
    rolled_until = max(rolled_until, excluded.rolled_until);
-- Those samples now, all others by 2_up_samples.sql. They stay where they were, too, until their turn comes.
INSERT INTO mining_stats
SELECT w.id, s.recorded_at, s.hashrate, s.unit = 'H/s', s.gpu_temperature, s.blocks_found, s.uptime_percentage,
    s.uptime_seconds, s.network_difficulty, s.power_watts, s.accepted, s.rejected, s.loss
FROM (SELECT wallet, max(recorded_at) - 7200000 AS since FROM workers_1 GROUP BY wallet) n CROSS JOIN mining_stats_1 s
    CROSS JOIN workers w
WHERE s.wallet = n.wallet AND s.recorded_at >= n.since AND w.wallet = s.wallet AND w.worker = s.worker
    AND s.recorded_at >= w.rolled_until
ON CONFLICT DO NOTHING;
-- The hours as they are until then, each sample counted for ten seconds, as often as the collector takes one.
INSERT INTO hashrate_history
SELECT w.id, 60, h.recorded_at, h.unit = 'H/s', h.total / h.samples, 10000 * h.samples, h.min, h.max, h.samples
FROM hashrate_history_1 h JOIN workers w ON w.wallet = h.wallet AND w.worker = h.worker
WHERE h.recorded_at + 3600000 <= w.rolled_until
ON CONFLICT (worker, step, recorded_at, unit) DO UPDATE SET mean = excluded.mean, weight = excluded.weight,
    min = excluded.min, max = excluded.max, samples = excluded.samples WHERE excluded.samples > samples;
INSERT INTO hashrate_history
SELECT h.worker, 1440, h.recorded_at - h.recorded_at % 86400000, h.unit, sum(h.mean * h.weight) / sum(h.weight), sum(h.weight),
    min(h.min), max(h.max), sum(h.samples)
FROM workers w CROSS JOIN hashrate_history h WHERE h.worker = w.id AND h.step = 60
GROUP BY h.worker, h.recorded_at - h.recorded_at % 86400000, h.unit
ON CONFLICT (worker, step, recorded_at, unit) DO UPDATE SET mean = excluded.mean, weight = excluded.weight,
    min = excluded.min, max = excluded.max, samples = excluded.samples WHERE excluded.samples > samples;
DROP TABLE hashrate_history_1;
DROP TABLE workers_1;

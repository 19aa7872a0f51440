-- What version 2 had is in the tables with _2 behind their names. The samples of version 1 are there where not all of them
-- had come along. What has no place in version 1 goes: minutes, and the days of which there are no hours any more.
DROP INDEX idx_workers_wallet;
DROP INDEX idx_workers_recorded_at;
DROP INDEX idx_workers_unrolled;
CREATE TABLE IF NOT EXISTS mining_stats (
    wallet             TEXT NOT NULL REFERENCES users (wallet),
    recorded_at        INTEGER NOT NULL,
    worker             TEXT NOT NULL,
    hashrate           REAL NOT NULL,
    unit               TEXT NOT NULL,
    gpu_temperature    REAL,
    blocks_found       INTEGER,
    uptime_percentage  REAL,
    uptime_seconds     INTEGER,
    network_difficulty REAL,
    power_watts        REAL,
    accepted           INTEGER,
    rejected           INTEGER,
    loss               REAL,
    PRIMARY KEY (wallet, recorded_at, worker)
) STRICT, WITHOUT ROWID;
CREATE TABLE workers (
    wallet             TEXT NOT NULL REFERENCES users (wallet),
    worker             TEXT NOT NULL,
    recorded_at        INTEGER NOT NULL,
    hashrate           REAL NOT NULL,
    unit               TEXT NOT NULL,
    gpu_temperature    REAL,
    blocks_found       INTEGER,
    uptime_percentage  REAL,
    network_difficulty REAL,
    PRIMARY KEY (wallet, worker)
) STRICT, WITHOUT ROWID;
CREATE INDEX idx_workers_recorded_at ON workers (recorded_at, wallet);
CREATE TABLE hashrate_history (
    wallet      TEXT NOT NULL REFERENCES users (wallet),
    recorded_at INTEGER NOT NULL,
    worker      TEXT NOT NULL,
    unit        TEXT NOT NULL,
    total       REAL NOT NULL,
    min         REAL NOT NULL,
    max         REAL NOT NULL,
    samples     INTEGER NOT NULL,
    PRIMARY KEY (wallet, recorded_at, worker, unit)
) STRICT, WITHOUT ROWID;
INSERT INTO workers
SELECT wallet, worker, recorded_at, hashrate, iif(unit = 1, 'H/s', 'gradients/h'), gpu_temperature, blocks_found,
    uptime_percentage, network_difficulty
FROM workers_2;
-- The samples of the hours that are not rolled up yet; all others by 2_down_samples.sql.
INSERT INTO mining_stats
SELECT w.wallet, s.recorded_at, w.worker, s.hashrate, iif(s.unit = 1, 'H/s', 'gradients/h'), s.gpu_temperature,
    s.blocks_found, s.uptime_percentage, s.uptime_seconds, s.network_difficulty, s.power_watts, s.accepted, s.rejected, s.loss
FROM workers_2 w CROSS JOIN mining_stats_2 s
WHERE s.worker = w.id AND s.recorded_at >= w.rolled_until - w.rolled_until % 3600000
ON CONFLICT DO NOTHING;
INSERT INTO hashrate_history
SELECT w.wallet, h.recorded_at, w.worker, iif(h.unit = 1, 'H/s', 'gradients/h'), h.mean * h.samples, h.min, h.max, h.samples
FROM workers_2 w CROSS JOIN hashrate_history_2 h WHERE h.worker = w.id AND h.step = 60;
-- Those hours, from their samples.
INSERT INTO hashrate_history
SELECT w.wallet, s.recorded_at - s.recorded_at % 3600000, w.worker, iif(s.unit = 1, 'H/s', 'gradients/h'), sum(s.hashrate),
    min(s.hashrate), max(s.hashrate), count(*)
FROM workers_2 w CROSS JOIN mining_stats_2 s
WHERE s.worker = w.id AND s.recorded_at >= w.rolled_until - w.rolled_until % 3600000
GROUP BY w.id, s.recorded_at - s.recorded_at % 3600000, s.unit
ON CONFLICT (wallet, recorded_at, worker, unit) DO UPDATE SET total = excluded.total, min = excluded.min, max = excluded.max,
    samples = excluded.samples WHERE excluded.samples >= samples;

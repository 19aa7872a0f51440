-- What has no place in version 1 goes: minutes, and the days of which there are no hours any more.
ALTER TABLE workers RENAME TO workers_2;
ALTER TABLE mining_stats RENAME TO mining_stats_2;
ALTER TABLE hashrate_history RENAME TO hashrate_history_2;
DROP INDEX idx_workers_recorded_at;
CREATE TABLE mining_stats (
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
INSERT INTO mining_stats
SELECT w.wallet, s.recorded_at, w.worker, s.hashrate, iif(s.unit = 1, 'H/s', 'gradients/h'), s.gpu_temperature,
    s.blocks_found, s.uptime_percentage, s.uptime_seconds, s.network_difficulty, s.power_watts, s.accepted, s.rejected, s.loss
FROM mining_stats_2 s JOIN workers_2 w ON w.id = s.worker;
-- Hours of which every sample is there are made from those, as version 1 does; the others from the history.
INSERT INTO hashrate_history
SELECT wallet, recorded_at - recorded_at % 3600000, worker, unit, sum(hashrate), min(hashrate), max(hashrate), count(*)
FROM mining_stats GROUP BY wallet, recorded_at - recorded_at % 3600000, worker, unit;
INSERT INTO hashrate_history
SELECT w.wallet, h.recorded_at, w.worker, iif(h.unit = 1, 'H/s', 'gradients/h'), h.mean * h.samples, h.min, h.max, h.samples
FROM hashrate_history_2 h JOIN workers_2 w ON w.id = h.worker WHERE h.step = 60
ON CONFLICT (wallet, recorded_at, worker, unit) DO UPDATE SET total = excluded.total, min = excluded.min, max = excluded.max,
    samples = excluded.samples WHERE excluded.samples > samples;
DROP TABLE late_minutes;
DROP TABLE hashrate_history_2;
DROP TABLE mining_stats_2;
DROP TABLE workers_2;

-- An hour that samples came late into, once all of them are there.
SELECT w.wallet, l.recorded_at - l.recorded_at % 3600000 FROM late_minutes_2 l JOIN workers_2 w ON w.id = l.worker LIMIT 1

INSERT INTO hashrate_history
SELECT wallet, ?2, worker, unit, sum(hashrate), min(hashrate), max(hashrate), count(*)
FROM mining_stats WHERE wallet = ?1 AND recorded_at >= ?2 AND recorded_at < ?2 + 3600000 GROUP BY wallet, worker, unit
ON CONFLICT (wallet, recorded_at, worker, unit) DO UPDATE SET total = excluded.total, min = excluded.min, max = excluded.max,
    samples = excluded.samples WHERE excluded.samples >= samples;
DELETE FROM late_minutes_2
WHERE worker IN (SELECT id FROM workers_2 WHERE wallet = ?1) AND recorded_at >= ?2 AND recorded_at < ?2 + 3600000;

-- The newest samples of version 1 that are left, so many of one wallet.
SELECT n.wallet, coalesce((SELECT s.recorded_at FROM mining_stats_1 s WHERE s.wallet = n.wallet
    ORDER BY s.recorded_at DESC LIMIT 1 OFFSET 2000), -9223372036854775808)
FROM (SELECT wallet FROM mining_stats_1 ORDER BY wallet DESC LIMIT 1) n

-- Where their hour is in the history their minutes are marked as late, so that it is made again from them.
INSERT INTO mining_stats
SELECT w.id, s.recorded_at, s.hashrate, s.unit = 'H/s', s.gpu_temperature, s.blocks_found, s.uptime_percentage,
    s.uptime_seconds, s.network_difficulty, s.power_watts, s.accepted, s.rejected, s.loss
FROM mining_stats_1 s JOIN workers w ON w.wallet = s.wallet AND w.worker = s.worker
WHERE s.wallet = ?1 AND s.recorded_at >= ?2
ON CONFLICT DO NOTHING;
INSERT INTO late_minutes
SELECT DISTINCT w.id, s.recorded_at - s.recorded_at % 60000
FROM mining_stats_1 s JOIN workers w ON w.wallet = s.wallet AND w.worker = s.worker
WHERE s.wallet = ?1 AND s.recorded_at >= ?2 AND s.recorded_at < w.rolled_until
ON CONFLICT DO NOTHING;
DELETE FROM mining_stats_1 WHERE wallet = ?1 AND recorded_at >= ?2;

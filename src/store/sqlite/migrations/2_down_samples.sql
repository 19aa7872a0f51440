-- The newest time of which there are samples of version 2 left: so many, of all miners, or an hour.
SELECT max(n.newest - 3600000, coalesce((SELECT s.recorded_at FROM mining_stats_2 s WHERE s.worker = n.id
    ORDER BY s.recorded_at DESC LIMIT 1 OFFSET (SELECT 2000 / count(*) FROM workers_2)), n.newest - 3600000))
FROM (SELECT w.id, (SELECT max(s.recorded_at) FROM mining_stats_2 s WHERE s.worker = w.id) AS newest FROM workers_2 w
    WHERE newest IS NOT NULL ORDER BY newest DESC LIMIT 1) n

INSERT INTO mining_stats
SELECT w.wallet, s.recorded_at, w.worker, s.hashrate, iif(s.unit = 1, 'H/s', 'gradients/h'), s.gpu_temperature,
    s.blocks_found, s.uptime_percentage, s.uptime_seconds, s.network_difficulty, s.power_watts, s.accepted, s.rejected, s.loss
FROM workers_2 w CROSS JOIN mining_stats_2 s WHERE s.worker = w.id AND s.recorded_at >= ?1
ON CONFLICT DO NOTHING;
DELETE FROM mining_stats_2 WHERE worker IN (SELECT id FROM workers_2) AND recorded_at >= ?1;

-- The history has its hours in version 1. As one table of many rows it would take long to drop.
SELECT n.worker, coalesce((SELECT h.recorded_at FROM hashrate_history_2 h WHERE h.worker = n.worker AND h.step = 1
    ORDER BY h.recorded_at DESC LIMIT 1 OFFSET 2000), -9223372036854775808)
FROM (SELECT worker FROM hashrate_history_2 ORDER BY worker DESC LIMIT 1) n

DELETE FROM hashrate_history_2 WHERE worker = ?1 AND step IN (1, 60, 1440) AND recorded_at >= ?2;

//! Every SQL statement of the program, so that a test can check the query plan of each.
//!
//! The portable subset only: numbered parameters, `ON CONFLICT`, `RETURNING`, moments and amounts passed in as integers.

macro_rules! statements {
    ($($name:ident = $text:literal;)*) => {
        $(pub(super) const $name: &str = $text;)*
        /// Every statement with its name, for the test of the query plans.
        #[cfg(test)]
        pub(super) const ALL: &[(&str, &str)] = &[$((stringify!($name), $text)),*];
    };
}

statements! {
    // which database a file is, and which of its states a log belongs to
    SELECT_IDENTITY = "SELECT database, log, before, open_at FROM identity WHERE id = 1";
    SET_OPEN_AT = "UPDATE identity SET open_at = ?1 WHERE id = 1";
    BEGIN_LOG = "UPDATE identity SET before = log, log = random() WHERE id = 1";

    // users and credits
    INSERT_USER = "INSERT INTO users (wallet, created_at) VALUES (?1, ?2) ON CONFLICT (wallet) DO NOTHING";
    SELECT_USER = "SELECT u.wallet, u.credits, u.created_at, (SELECT max(w.recorded_at) FROM workers w WHERE w.wallet = u.wallet), u.blocked
                   FROM users u WHERE u.wallet = ?1";
    // An empty part is in every address.
    SELECT_USERS = "SELECT u.wallet, u.credits, u.created_at, (SELECT max(w.recorded_at) FROM workers w WHERE w.wallet = u.wallet), u.blocked, u.last_used
                    FROM users u WHERE u.wallet > ?1 AND instr(u.wallet, ?3) > 0 ORDER BY u.wallet LIMIT ?2";
    // By a value of each account, which no index has: one would cost every charge a write. An admin's list reads the table.
    SELECT_USERS_BY_VALUE = "SELECT address, credits, created_at, (SELECT max(recorded_at) FROM workers WHERE wallet = address), blocked, last_used FROM (
                                 SELECT address, credits, created_at, blocked, last_used, sorted_by FROM (
                                     SELECT wallet AS address, credits, created_at, blocked, last_used,
                                            CASE ?5 WHEN 1 THEN created_at WHEN 2 THEN credits ELSE coalesce(last_used, -1) END AS sorted_by
                                     FROM users WHERE id > 0 AND instr(wallet, ?3) > 0)
                                 WHERE sorted_by < ?4 OR (sorted_by = ?4 AND address > ?1) ORDER BY sorted_by DESC, address LIMIT ?2)
                             ORDER BY sorted_by DESC, address";
    SET_USER_USED = "UPDATE users SET last_used = max(coalesce(last_used, ?2), ?2) WHERE wallet = ?1";
    SET_USER_USED_BY_KEY = "UPDATE users SET last_used = ?2 WHERE wallet = (SELECT wallet FROM api_keys WHERE id = ?1)";
    SET_BLOCKED = "UPDATE users SET blocked = ?2 WHERE wallet = ?1 AND blocked <> ?2";
    SELECT_ACCOUNT = "SELECT id, credits FROM users WHERE wallet = ?1";
    SELECT_CREDITS = "SELECT credits FROM users WHERE id = ?1";
    SELECT_TOTAL_FITS = "SELECT credits + ?1 <= 9223372036854775807 FROM totals WHERE id = 1";
    MOVE_CREDITS = "UPDATE users SET credits = credits + ?2 WHERE id = ?1 AND credits + ?2 BETWEEN 0 AND ?3";
    INSERT_ENTRY = "INSERT INTO ledger (user, amount, balance, reason, reference, operation, created_at, key, adapter, prompt_tokens, cached_tokens, completion_tokens, estimated)
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    SELECT_LEDGER = "SELECT l.id, l.amount, l.balance, l.reason, l.reference, l.operation, l.created_at, k.key, l.adapter, l.prompt_tokens, l.cached_tokens, l.completion_tokens, l.estimated
                     FROM ledger l LEFT JOIN key_ids k ON k.id = l.key WHERE l.user = (SELECT id FROM users WHERE wallet = ?1) AND l.id < ?2 ORDER BY l.id DESC LIMIT ?3";
    SELECT_ENTRIES = "SELECT l.id, l.amount, l.balance, l.reason, l.reference, l.operation, l.created_at, k.key, l.adapter, l.prompt_tokens, l.cached_tokens, l.completion_tokens, l.estimated, u.wallet
                      FROM ledger l JOIN users u ON u.id = l.user LEFT JOIN key_ids k ON k.id = l.key WHERE l.id > ?1 ORDER BY l.id LIMIT ?2";
    SELECT_ENTRIES_OF_WALLET = "SELECT l.id, l.amount, l.balance, l.reason, l.reference, l.operation, l.created_at, k.key, l.adapter, l.prompt_tokens, l.cached_tokens, l.completion_tokens, l.estimated, u.wallet
                                FROM users u JOIN ledger l ON l.user = u.id LEFT JOIN key_ids k ON k.id = l.key WHERE u.wallet = ?3 AND l.id > ?1 ORDER BY l.id LIMIT ?2";
    SELECT_OPERATION = "SELECT operation FROM ledger WHERE id = ?1";
    SELECT_CHARGE = "SELECT user, created_at, coalesce(key, 0), adapter, coalesce(prompt_tokens, 0), coalesce(cached_tokens, 0), coalesce(completion_tokens, 0) FROM ledger WHERE id = ?1";
    SELECT_KEY_NUMBER = "SELECT id FROM key_ids WHERE key = ?1";
    INSERT_KEY_NUMBER = "INSERT INTO key_ids (key) VALUES (?1)";
    // The sums of usage and spending end at the largest integer, so that none makes a charge fail.
    ADD_USAGE = "INSERT INTO usage (user, day, key, adapter, requests, charged, prompt_tokens, cached_tokens, completion_tokens) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (user, day, key, adapter) DO UPDATE SET requests = min(requests + excluded.requests, 9223372036854775807),
                 charged = min(charged + excluded.charged, 9223372036854775807), prompt_tokens = min(prompt_tokens + excluded.prompt_tokens, 9223372036854775807),
                 cached_tokens = min(cached_tokens + excluded.cached_tokens, 9223372036854775807),
                 completion_tokens = min(completion_tokens + excluded.completion_tokens, 9223372036854775807)";
    ADD_LOST = "INSERT INTO usage (user, day, key, adapter, requests, charged, prompt_tokens, cached_tokens, completion_tokens, lost) VALUES (?1, ?2, ?3, ?4, 0, 0, 0, 0, 0, 1)
                ON CONFLICT (user, day, key, adapter) DO UPDATE SET lost = min(lost + excluded.lost, 9223372036854775807)";
    SELECT_USED = "SELECT u.day, k.key, u.adapter, u.requests, u.lost, u.prompt_tokens, u.cached_tokens, u.completion_tokens, u.charged
                   FROM usage u LEFT JOIN key_ids k ON k.id = u.key WHERE u.day >= ?1 AND u.day < ?2 ORDER BY u.day";
    SELECT_USED_BY_USER = "SELECT u.day, k.key, u.adapter, u.requests, u.lost, u.prompt_tokens, u.cached_tokens, u.completion_tokens, u.charged
                           FROM usage u LEFT JOIN key_ids k ON k.id = u.key WHERE u.user = ?3 AND u.day >= ?1 AND u.day < ?2 ORDER BY u.day";
    ADD_SPENDING = "INSERT INTO spending (id, period, spent) VALUES (?1, ?2, ?3) ON CONFLICT (id, period) DO UPDATE SET spent = min(spent + excluded.spent, 9223372036854775807)";
    SELECT_SPENT = "SELECT coalesce((SELECT spent FROM spending WHERE id = ?1 AND period = ?2), 0)";

    // keys
    INSERT_KEY = "INSERT INTO api_keys (id, hash, start, wallet, name, scopes, created_at, expires_at, revoked_at, last_used, login, imported, limit_id, models, credit_limit, credit_period, max_concurrency)
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17) ON CONFLICT DO NOTHING";
    // Three ranges of an index, without the keys that ended.
    COUNT_ACTIVE_KEYS = "SELECT (SELECT count(*) FROM api_keys WHERE wallet = ?1 AND login = 0 AND revoked_at IS NULL AND expires_at IS NULL)
                         + (SELECT count(*) FROM api_keys WHERE wallet = ?1 AND login = 0 AND revoked_at IS NULL AND expires_at > ?2)
                         + (SELECT count(*) FROM api_keys WHERE wallet = ?1 AND login = 0 AND revoked_at > ?2 AND (expires_at IS NULL OR expires_at > ?2))";
    SELECT_KEY_BY_HASH = "SELECT id, hash, start, wallet, name, scopes, created_at, expires_at, revoked_at, last_used, login, limit_id, models, credit_limit, credit_period, max_concurrency FROM api_keys WHERE hash = ?1";
    SELECT_KEY = "SELECT id, hash, start, wallet, name, scopes, created_at, expires_at, revoked_at, last_used, login, limit_id, models, credit_limit, credit_period, max_concurrency FROM api_keys WHERE id = ?1";
    SELECT_KEYS = "SELECT id, hash, start, wallet, name, scopes, created_at, expires_at, revoked_at, last_used, login, limit_id, models, credit_limit, credit_period, max_concurrency FROM api_keys
                   WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
    SELECT_KEYS_OF_WALLET = "SELECT id, hash, start, wallet, name, scopes, created_at, expires_at, revoked_at, last_used, login, limit_id, models, credit_limit, credit_period, max_concurrency FROM api_keys
                             WHERE wallet = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
    REVOKE_KEY = "UPDATE api_keys SET revoked_at = ?2 WHERE id = ?1 AND (revoked_at IS NULL OR revoked_at > ?2)";
    PURGE_LOGIN_KEYS = "DELETE FROM api_keys WHERE id IN (SELECT id FROM api_keys WHERE login = 1 AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2)";
    PURGE_REVOKED_KEYS = "DELETE FROM api_keys WHERE id IN (SELECT id FROM api_keys WHERE wallet IS NOT NULL AND imported = 0 AND revoked_at <= ?1 ORDER BY revoked_at LIMIT ?2)";
    PURGE_EXPIRED_KEYS = "DELETE FROM api_keys WHERE id IN (SELECT id FROM api_keys WHERE wallet IS NOT NULL AND imported = 0 AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2)";
    // a key without a wallet is an admin's
    HAS_ADMIN_KEY = "SELECT EXISTS (SELECT 1 FROM api_keys WHERE wallet IS NULL AND instr(scopes, 'admin') > 0)";
    ADOPT_KEY = "UPDATE api_keys SET hash = ?2, start = ?3 WHERE hash = ?1 AND imported = 1";
    TOUCH_KEY = "UPDATE api_keys SET last_used = ?2 WHERE id = ?1";

    // answers stored for an Idempotency-Key; the column principal holds the scope
    SELECT_RESPONSE = "SELECT request, status, answer FROM idempotency WHERE key = ?1 AND expires_at > ?2";
    SELECT_IDEMPOTENCY_USAGE = "SELECT coalesce((SELECT row_count FROM idempotency_usage WHERE scope = ?1), 0),
                                coalesce((SELECT bytes FROM idempotency_usage WHERE scope = ?1), 0),
                                (SELECT bytes FROM idempotency_usage WHERE scope = 0)";
    SELECT_OLDEST_EXPIRY = "SELECT expires_at FROM idempotency WHERE principal = ?1 ORDER BY expires_at LIMIT 1";
    DELETE_RESPONSE = "DELETE FROM idempotency WHERE key = ?1";
    INSERT_RESPONSE = "INSERT INTO idempotency (key, principal, request, status, answer, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    // an expiry after ?1 was stored by a clock that was ahead
    SHORTEN_RESPONSES = "UPDATE idempotency SET expires_at = ?2 WHERE key IN (SELECT key FROM idempotency WHERE expires_at > ?1 LIMIT ?3)";
    PURGE_RESPONSES = "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)";
    PURGE_RESPONSES_OF_SCOPE = "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE principal = ?1 AND expires_at <= ?2 ORDER BY expires_at LIMIT ?3)";

    // the audit trail; a row is deleted where both the clock and the newest row say that it is two years old
    INSERT_AUDIT = "INSERT INTO audit (created_at, actor, address, action, target, amount, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    SELECT_AUDIT = "SELECT id, created_at, actor, address, action, target, amount, reason FROM audit WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
    DELETE_AUDIT = "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE created_at <
                    min(?1, (SELECT created_at FROM audit WHERE id = (SELECT max(id) FROM audit))) - 63072000000 ORDER BY created_at LIMIT ?2)";

    // telemetry
    INSERT_SAMPLE = "INSERT INTO mining_stats (worker, recorded_at, hashrate, unit, gpu_temperature, blocks_found, uptime_percentage,
                     network_difficulty, uptime_seconds, power_watts, accepted, rejected, loss)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) ON CONFLICT (worker, recorded_at) DO NOTHING";
    SELECT_HAS_WORKER = "SELECT EXISTS (SELECT 1 FROM workers WHERE wallet = ?1)";
    COUNT_WORKERS = "SELECT count(*) FROM workers WHERE wallet = ?1";
    SELECT_WORKER = "SELECT id, rolled_until FROM workers WHERE wallet = ?1 AND worker = ?2";
    INSERT_WORKER = "INSERT INTO workers (wallet, worker, recorded_at, hashrate, unit, rolled_until) VALUES (?1, ?2, ?3, ?4, ?5, ?6) RETURNING id";
    // A late sample sets only the values that newer samples left out, and one from the future (after ?9) none.
    UPDATE_WORKER = "UPDATE workers SET
                     hashrate = CASE WHEN ?2 >= recorded_at THEN ?3 ELSE hashrate END,
                     unit = CASE WHEN ?2 >= recorded_at THEN ?4 ELSE unit END,
                     gpu_temperature = CASE WHEN ?2 >= recorded_at THEN coalesce(?5, gpu_temperature) ELSE coalesce(gpu_temperature, ?5) END,
                     blocks_found = CASE WHEN ?2 >= recorded_at THEN coalesce(?6, blocks_found) ELSE coalesce(blocks_found, ?6) END,
                     uptime_percentage = CASE WHEN ?2 >= recorded_at THEN coalesce(?7, uptime_percentage) ELSE coalesce(uptime_percentage, ?7) END,
                     network_difficulty = CASE WHEN ?2 >= recorded_at THEN coalesce(?8, network_difficulty) ELSE coalesce(network_difficulty, ?8) END,
                     recorded_at = max(recorded_at, ?2) WHERE id = ?1 AND ?2 <= ?9 AND recorded_at <= ?9";
    // Sets a row that is from the future (after ?2) to the newest sample that is not.
    REPLACE_WORKER = "UPDATE workers SET (recorded_at, hashrate, unit, gpu_temperature, blocks_found, uptime_percentage, network_difficulty) =
                      (SELECT recorded_at, hashrate, unit, gpu_temperature, blocks_found, uptime_percentage, network_difficulty
                       FROM mining_stats WHERE worker = ?1 AND recorded_at <= ?2 ORDER BY recorded_at DESC LIMIT 1)
                      WHERE id = ?1 AND recorded_at > ?2";

    // the hashrate over time
    SELECT_UNROLLED = "SELECT id, rolled_until FROM workers WHERE rolled_until <= recorded_at AND rolled_until < ?1 ORDER BY rolled_until LIMIT ?2";
    SET_ROLLED_UNTIL = "UPDATE workers SET rolled_until = ?2 WHERE id = ?1";
    // While nothing is rolled up, as the first sample to arrive need not be the first in time.
    LOWER_ROLLED_UNTIL = "UPDATE workers SET rolled_until = ?2 WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM hashrate_history WHERE worker = ?1)";
    // From the sample before the end to the next one after it is a minute at most that counts.
    ROLL_UP_MINUTES = "INSERT INTO hashrate_history (worker, step, recorded_at, unit, mean, weight, min, max, samples)
                       SELECT ?1, 1, recorded_at / 60000 * 60000, unit, CASE WHEN count(*) = 1 THEN hashrate ELSE sum(hashrate * weight) / sum(weight) END, sum(weight), min(hashrate), max(hashrate), count(*)
                       FROM (SELECT recorded_at, unit, hashrate, min(60000, coalesce(lead(recorded_at) OVER (ORDER BY recorded_at) - recorded_at, 60000)) AS weight
                             FROM mining_stats WHERE worker = ?1 AND recorded_at >= ?2 AND recorded_at < ?3 + 60000)
                       WHERE recorded_at < ?3 GROUP BY recorded_at / 60000, unit
                       ON CONFLICT (worker, step, recorded_at, unit) DO UPDATE SET mean = excluded.mean, weight = excluded.weight,
                       min = excluded.min, max = excluded.max, samples = excluded.samples";
    SELECT_SAMPLE_FROM = "SELECT recorded_at FROM mining_stats WHERE worker = ?1 AND recorded_at >= ?2 ORDER BY recorded_at LIMIT 1";
    COMBINE_WINDOWS = "INSERT INTO hashrate_history (worker, step, recorded_at, unit, mean, weight, min, max, samples)
                       SELECT ?1, ?2, ?3, unit, sum(mean * weight) / sum(weight), sum(weight), min(min), max(max), sum(samples)
                       FROM hashrate_history WHERE worker = ?1 AND step = ?5 AND recorded_at >= ?3 AND recorded_at < ?4 GROUP BY unit
                       ON CONFLICT (worker, step, recorded_at, unit) DO UPDATE SET mean = excluded.mean, weight = excluded.weight,
                       min = excluded.min, max = excluded.max, samples = excluded.samples";
    // Per miner and window the mean weighted by time; over the miners its sum. The last column counts the rows behind it.
    SELECT_RAW = "SELECT recorded_at, unit, hashrate, hashrate, hashrate, 1, 0 FROM (
                      SELECT s.recorded_at, s.unit, s.hashrate, w.worker FROM workers w JOIN mining_stats s ON s.worker = w.id AND s.recorded_at >= ?2 AND s.recorded_at < ?4
                      WHERE w.wallet = ?1 AND w.recorded_at >= ?2 LIMIT ?3)
                  ORDER BY recorded_at, worker";
    SELECT_HISTORY = "SELECT at, unit, sum(mean), sum(least), sum(most), sum(samples), sum(row_count) FROM (
                          SELECT worker, at, unit, CASE WHEN count(*) = 1 THEN mean ELSE sum(mean * weight) / sum(weight) END AS mean, min(least) AS least, max(most) AS most,
                                 sum(samples) AS samples, count(*) AS row_count FROM (
                              SELECT h.worker AS worker, h.recorded_at AS at, h.unit AS unit, h.mean AS mean, h.weight AS weight, h.min AS least,
                                     h.max AS most, h.samples AS samples
                              FROM workers w JOIN hashrate_history h ON h.worker = w.id AND h.step = ?4 AND h.recorded_at >= ?2 AND h.recorded_at < ?7
                              WHERE w.wallet = ?1 AND w.recorded_at >= ?2
                              UNION ALL
                              SELECT worker, recorded_at / ?3 * ?3, unit, hashrate, weight, hashrate, hashrate, 1 FROM (
                                  SELECT s.worker AS worker, s.recorded_at AS recorded_at, s.unit AS unit, s.hashrate AS hashrate,
                                         min(60000, coalesce(lead(s.recorded_at) OVER (PARTITION BY s.worker ORDER BY s.recorded_at) - s.recorded_at, 60000)) AS weight
                                  FROM workers w JOIN mining_stats s ON s.worker = w.id AND s.recorded_at >= max(?2, w.rolled_until) AND s.recorded_at < ?7
                                  WHERE w.wallet = ?1 AND w.recorded_at >= ?2)
                              LIMIT ?5)
                          GROUP BY worker, at, unit)
                      GROUP BY at, unit ORDER BY at, unit LIMIT ?6";

    // A counter that is less than before began anew.
    SELECT_SHARES = "SELECT CAST(total(max(accepted - before, 0)) AS INTEGER), min(began), max(recorded_at) FROM (
                         SELECT s.recorded_at AS recorded_at, s.accepted AS accepted, lag(s.accepted) OVER own AS before, lag(s.recorded_at) OVER own AS began
                         FROM workers w JOIN mining_stats s ON s.worker = w.id AND s.recorded_at >= ?2 AND s.recorded_at < ?3
                         WHERE w.wallet = ?1 AND w.recorded_at >= ?2 AND s.accepted IS NOT NULL
                         WINDOW own AS (PARTITION BY s.worker ORDER BY s.recorded_at))
                     WHERE before IS NOT NULL";

    // expired rows
    SELECT_WORKERS = "SELECT id FROM workers WHERE id >= ?1 ORDER BY id LIMIT ?2";
    DELETE_SAMPLES = "DELETE FROM mining_stats WHERE worker = ?1 AND recorded_at IN
                      (SELECT recorded_at FROM mining_stats WHERE worker = ?1 AND recorded_at < ?2 ORDER BY recorded_at LIMIT ?3)";
    DELETE_WINDOWS = "DELETE FROM hashrate_history WHERE worker = ?1 AND step = ?2 AND recorded_at IN
                      (SELECT recorded_at FROM hashrate_history WHERE worker = ?1 AND step = ?2 AND recorded_at < ?3 ORDER BY recorded_at LIMIT ?4)";

    // earnings
    INSERT_EARNING = "INSERT INTO earnings_history (source_id, wallet, earnings, recorded_at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (source_id) DO NOTHING";
    SELECT_EARNING = "SELECT wallet, earnings FROM earnings_history WHERE source_id = ?1";
    ADD_EARNINGS = "UPDATE users SET total_earnings = total_earnings + ?2 WHERE wallet = ?1 AND total_earnings + ?2 <= 9223372036854775807";
    // Of the active miners, or the newest if none is, those with the newest one's unit: different units are not added up.
    // Instead of a row from the future (after ?3) the newest sample counts that is not.
    SELECT_MINER = "WITH latest AS MATERIALIZED (
                        SELECT worker, recorded_at, unit, network_difficulty, hashrate, gpu_temperature, uptime_percentage, blocks_found
                        FROM workers WHERE wallet = ?1 AND recorded_at <= ?3
                        UNION ALL
                        SELECT w.worker, s.recorded_at, s.unit, s.network_difficulty, s.hashrate, s.gpu_temperature, s.uptime_percentage, s.blocks_found
                        FROM workers w JOIN mining_stats s ON s.worker = w.id
                        AND s.recorded_at = (SELECT max(recorded_at) FROM mining_stats WHERE worker = w.id AND recorded_at <= ?3)
                        WHERE w.wallet = ?1 AND w.recorded_at > ?3)
                    SELECT u.total_earnings, latest_one.recorded_at, latest_one.unit, latest_one.network_difficulty,
                    sum(latest_active.hashrate), max(latest_active.gpu_temperature), avg(latest_active.uptime_percentage),
                    CAST((SELECT sum(CAST(blocks_found AS REAL)) FROM latest) AS INTEGER)
                    FROM users u
                    LEFT JOIN (SELECT * FROM latest ORDER BY recorded_at DESC, worker DESC LIMIT 1) latest_one
                    LEFT JOIN latest latest_active ON latest_active.unit = latest_one.unit AND latest_active.recorded_at >= min(latest_one.recorded_at, ?2)
                    WHERE u.wallet = ?1 GROUP BY u.wallet";
    // With the values of its row, which the sample may have left out; instead of a row from the future (after ?3) the newest
    // sample that is not.
    SELECT_WORKER_STATS = "SELECT w.worker, w.recorded_at, w.hashrate, w.unit, w.gpu_temperature, s.power_watts, s.accepted, s.rejected
                           FROM workers w LEFT JOIN mining_stats s ON s.worker = w.id AND s.recorded_at = w.recorded_at
                           WHERE w.wallet = ?1 AND w.recorded_at BETWEEN ?2 AND ?3
                           UNION ALL
                           SELECT w.worker, s.recorded_at, s.hashrate, s.unit, s.gpu_temperature, s.power_watts, s.accepted, s.rejected
                           FROM workers w JOIN mining_stats s ON s.worker = w.id
                           AND s.recorded_at = (SELECT max(recorded_at) FROM mining_stats WHERE worker = w.id AND recorded_at <= ?3)
                           WHERE w.wallet = ?1 AND w.recorded_at > ?3 AND s.recorded_at >= ?2
                           ORDER BY 2 DESC, 1 LIMIT ?4";
    // Read until enough wallets were seen, each of which has a bounded number of rows.
    SELECT_RECENT_WORKERS = "SELECT wallet FROM workers WHERE recorded_at <= ?1 ORDER BY recorded_at DESC, wallet DESC";
    SELECT_EARNINGS_BY_DAY = "SELECT sum(earnings), max(recorded_at) FROM earnings_history WHERE wallet = ?1 AND recorded_at >= ?2 AND recorded_at < ?3
                              GROUP BY recorded_at / 86400000 ORDER BY recorded_at / 86400000";

    // what an import asks besides
    SELECT_OPENING = "SELECT amount FROM ledger WHERE user = (SELECT id FROM users WHERE wallet = ?1) AND reason = ?2 AND reference = ?3 ORDER BY id LIMIT 1";

    // over all wallets, of the active miners (since ?2, to ?3); unlike units are not added up, the newest worker's counts
    SELECT_TOP_EARNERS = "SELECT u.wallet, u.total_earnings, (SELECT sum(w.hashrate) FROM workers w WHERE w.wallet = u.wallet AND w.recorded_at BETWEEN ?2 AND ?3 AND w.unit =
                           (SELECT n.unit FROM workers n WHERE n.wallet = u.wallet AND n.recorded_at <= ?3 ORDER BY n.recorded_at DESC, n.worker DESC LIMIT 1)),
                          (SELECT CAST(sum(CAST(blocks_found AS REAL)) AS INTEGER) FROM workers w WHERE w.wallet = u.wallet AND w.recorded_at <= ?3)
                          FROM users u WHERE u.total_earnings > 0 ORDER BY u.total_earnings DESC, u.wallet LIMIT ?1";
    SELECT_TOP_EARNERS_SINCE = "SELECT e.wallet, sum(e.earnings) AS earned, (SELECT sum(w.hashrate) FROM workers w WHERE w.wallet = e.wallet AND w.recorded_at BETWEEN ?2 AND ?3 AND w.unit =
                           (SELECT n.unit FROM workers n WHERE n.wallet = e.wallet AND n.recorded_at <= ?3 ORDER BY n.recorded_at DESC, n.worker DESC LIMIT 1)),
                                (SELECT CAST(sum(CAST(blocks_found AS REAL)) AS INTEGER) FROM workers w WHERE w.wallet = e.wallet AND w.recorded_at <= ?3)
                                FROM earnings_history e WHERE e.recorded_at >= ?4 AND e.recorded_at <= ?3 GROUP BY e.wallet ORDER BY earned DESC, e.wallet LIMIT ?1";
    // An expression, since for the bare column SQLite walks the whole table in its order instead of the index.
    SELECT_TOTALS = "SELECT users, credits, (SELECT count(DISTINCT wallet || '') FROM workers WHERE recorded_at BETWEEN ?1 AND ?2) FROM totals WHERE id = 1";

    // verification: entries in the order of their ids, then each account
    SELECT_LAST = "SELECT (SELECT coalesce(max(id), 0) FROM ledger), (SELECT coalesce(max(id), 0) FROM users)";
    WALK_LEDGER = "SELECT id, user, amount, balance, reason, reference, created_at, coalesce(key, 0), coalesce(adapter, '') FROM ledger WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3";
    SELECT_BALANCE_BEFORE = "SELECT coalesce((SELECT balance FROM ledger WHERE user = ?1 AND id < ?2 ORDER BY id DESC LIMIT 1), 0), EXISTS (SELECT 1 FROM users WHERE id = ?1)";
    SELECT_REVERSED = "SELECT created_at, coalesce(key, 0), coalesce(adapter, '') FROM ledger WHERE id = ?1 AND id < ?2 AND user = ?3 AND amount = -?4 AND reason = 'chat'";
    SELECT_BALANCES = "SELECT u.id, u.wallet, u.credits, coalesce((SELECT balance FROM ledger WHERE user = u.id ORDER BY id DESC LIMIT 1), 0), u.total_earnings
                       FROM users u WHERE u.id > ?1 ORDER BY u.id LIMIT ?2";
    SELECT_ENTRIES_SINCE = "SELECT id, user, amount, balance, reason, reference, created_at, coalesce(key, 0), coalesce(adapter, '') FROM ledger WHERE user = ?1 AND id > ?2";
    SELECT_USAGE = "SELECT day, key, adapter, charged FROM usage WHERE user = ?1";
    SELECT_EARNINGS = "SELECT source_id, earnings FROM earnings_history WHERE wallet = ?1";
    // In halves, as sum() fails where it overflows.
    SELECT_SUM_AND_TOTALS = "SELECT coalesce(sum(credits >> 32), 0), coalesce(sum(credits & 4294967295), 0), (SELECT credits FROM totals WHERE id = 1),
                             (SELECT entries FROM totals WHERE id = 1), (SELECT coalesce(max(id), 0) FROM ledger) FROM users WHERE id > 0";
    SELECT_COUNT_AND_TOTAL = "SELECT (SELECT count(*) FROM users), users FROM totals WHERE id = 1";
    // the clock as it was last known
    SELECT_CLOCK = "SELECT at, boot, uptime, held FROM clock WHERE id = 1";
    SET_CLOCK = "INSERT INTO clock (id, at, boot, uptime, held) VALUES (1, ?1, ?2, ?3, ?4)
                 ON CONFLICT (id) DO UPDATE SET at = excluded.at, boot = excluded.boot, uptime = excluded.uptime, held = excluded.held";
    SELECT_VERIFIED = "SELECT entry FROM verified WHERE id = 1";
    SET_VERIFIED = "UPDATE verified SET entry = ?1 WHERE id = 1";
}

/// What the stored answers take, by scope and (as scope 0) in all: counted when a writing connection is opened,
/// and by its triggers from then on, so that a rollback takes the count back too.
pub(super) const COUNT_IDEMPOTENCY: &str = "
    CREATE TEMP TABLE idempotency_usage (
        scope     ANY PRIMARY KEY,
        row_count INTEGER NOT NULL,
        bytes     INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO idempotency_usage VALUES (0, 0, 0);
    INSERT INTO idempotency_usage
        SELECT principal, 1, coalesce(octet_length(answer), 0) FROM idempotency WHERE true
        ON CONFLICT (scope) DO UPDATE SET row_count = row_count + 1, bytes = bytes + excluded.bytes;
    UPDATE idempotency_usage SET (row_count, bytes) =
        (SELECT coalesce(sum(row_count), 0), coalesce(sum(bytes), 0) FROM idempotency_usage) WHERE scope = 0;
    CREATE TEMP TRIGGER idempotency_added AFTER INSERT ON main.idempotency BEGIN
        INSERT INTO idempotency_usage VALUES
            (NEW.principal, 1, coalesce(octet_length(NEW.answer), 0)), (0, 1, coalesce(octet_length(NEW.answer), 0))
            ON CONFLICT (scope) DO UPDATE SET row_count = row_count + 1, bytes = bytes + excluded.bytes;
    END;
    CREATE TEMP TRIGGER idempotency_removed AFTER DELETE ON main.idempotency BEGIN
        UPDATE idempotency_usage SET row_count = row_count - 1, bytes = bytes - coalesce(octet_length(OLD.answer), 0)
            WHERE scope IN (OLD.principal, 0);
        DELETE FROM idempotency_usage WHERE scope = OLD.principal AND row_count = 0;
    END;";

/// For the database of an R3MES backend, whose versions differ in their columns.
pub(super) fn select_for_import(table: &str) -> String {
    format!("SELECT rowid, * FROM {table} ORDER BY rowid")
}
pub(super) const SELECT_TABLE: &str =
    "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1";

/// What is wrong with a file's pages, or `ok`.
pub(super) const INTEGRITY: &str = "PRAGMA integrity_check(100)";

/// Gives back the memory of pages that were read.
pub(super) const FORGET_PAGES: &str = "PRAGMA shrink_memory";
/// Copies all pages from the log into the database file and truncates the log, which waits for its readers.
pub(super) const CHECKPOINT_TRUNCATE: &str = "PRAGMA wal_checkpoint(TRUNCATE)";
/// So few pages that no request waits for long.
pub(super) const VACUUM_STEP: &str = "PRAGMA incremental_vacuum(64)";
pub(super) const CHECK_REFERENCES: &str = "PRAGMA foreign_key_check";
pub(super) const IS_EMPTY: &str = "SELECT count(*) = 0 FROM sqlite_schema";
pub(super) const SCHEMA: &str =
    "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name";

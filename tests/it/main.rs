//! The integration tests: the real server over TCP on a real file, against scripted upstreams. One binary, a file per
//! subject; `support` has the server, the callers and the upstreams.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot go on may panic, and says what it measured"
)]

mod access;
mod alerts;
mod api_answers;
mod api_money;
mod architecture;
mod audit;
mod backend_clients;
mod backup;
mod blocked;
mod bounds;
mod breaker;
mod chain;
mod chat;
mod client_requests;
mod clock;
mod command_line;
mod config;
mod config_check;
mod connections;
mod contract;
mod count_tokens;
mod crash;
mod doctor;
mod embedding;
mod endpoint_edges;
mod endpoint_guard;
mod fault_table;
mod faults;
mod file_sequences;
mod http;
mod http10;
mod https;
mod idempotency;
mod import;
mod key_limits;
mod keys;
mod ledger;
mod listen;
mod login;
mod losses;
mod memory_store;
mod metered;
mod migrations;
mod models;
mod network;
mod nodes;
mod notify;
mod odd_usage;
mod openapi;
mod ops;
mod origin;
mod page;
mod page_requests;
mod prices;
mod prices_page;
mod prompt_count;
mod public_reads;
mod request_guard;
mod secrets;
mod several_processes;
mod simulation;
mod soak;
mod storage_faults;
mod support;
mod tables;
mod telemetry;
mod usage;
mod users;
mod v1;
mod wire;

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
mod architecture;
mod audit;
mod backend_clients;
mod backup;
mod bounds;
mod breaker;
mod chain;
mod chat;
mod clock;
mod command_line;
mod config;
mod config_check;
mod connections;
mod contract;
mod crash;
mod doctor;
mod embedding;
mod fault_table;
mod faults;
mod http;
mod http10;
mod https;
mod idempotency;
mod import;
mod keys;
mod ledger;
mod listen;
mod login;
mod losses;
mod memory_store;
mod migrations;
mod network;
mod nodes;
mod notify;
mod openapi;
mod ops;
mod origin;
mod page;
mod public_reads;
mod request_guard;
mod secrets;
mod several_processes;
mod simulation;
mod soak;
mod storage_faults;
mod support;
mod telemetry;
mod users;
mod v1;
mod wire;

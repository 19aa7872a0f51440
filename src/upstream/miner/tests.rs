//! Pages of miners, as they and their like write them.

use super::*;
use proptest::prelude::*;

const WALLET: &str = "remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm";

/// The sample of a page; an error where it is not of this kind.
fn read(kind: MinerKind, body: &str) -> Result<Option<Sample>, UpstreamError> {
    let wallet = Wallet::parse(WALLET).unwrap();
    let page = parse(kind, body.as_bytes())?;
    Ok(sample("local", &page, wallet, Timestamp::from_millis(0)))
}

fn engine(body: &str) -> Option<Sample> {
    read(MinerKind::R3mes, body).unwrap()
}

fn xmrig(body: &str) -> Option<Sample> {
    read(MinerKind::Xmrig, body).unwrap()
}

#[test]
fn the_page_of_the_r3mes_engine_is_read() {
    let page = r#"{"hashrate":42.5,"loss":0.83,"gpu_temp":67.0,"uptime_seconds":86412,"training_epoch":3}"#;
    let read = engine(page).unwrap();
    assert_eq!(
        (
            read.hashrate,
            read.gpu_temperature,
            read.loss,
            read.uptime_seconds
        ),
        (42.5, Some(67.0), Some(0.83), Some(86_412))
    );
    assert_eq!(read.unit, HashrateUnit::GradientsPerHour);
}

#[test]
fn a_figure_that_is_no_number_costs_itself_and_not_the_sample() {
    for other in [
        "NaN",
        "-Infinity",
        "1e999",
        "null",
        "\"N/A\"",
        "[1]",
        "-1",
        "true",
    ] {
        let page = format!(
            r#"{{"hashrate":50.5,"loss":{other},"gpu_temp":91.0,"gradient_norm":{other}}}"#
        );
        let read = engine(&page).unwrap();
        let figures = (read.hashrate, read.loss, read.gpu_temperature);
        assert_eq!(figures, (50.5, None, Some(91.0)), "{other}");
        let page = format!(
            r#"{{"uptime":{other},"results":{other},"x":{other},"hashrate":{{"total":[1.5,{other}],"highest":{other}}}}}"#
        );
        assert_eq!(xmrig(&page).unwrap().hashrate, 1.5, "{other}");
    }
    // Without a hashrate there is no sample, and the page is still one.
    for hashrate in ["NaN", "null", "1e999", "-1"] {
        assert_eq!(
            engine(&format!(r#"{{"hashrate":{hashrate},"loss":1}}"#)),
            None
        );
        let page = format!(r#"{{"uptime":1,"hashrate":{{"total":[{hashrate},2.0]}}}}"#);
        assert_eq!(xmrig(&page), None);
    }
}

#[test]
fn zeros_of_an_engine_without_a_sensor_or_before_it_runs_are_not_reported() {
    let read = engine(r#"{"hashrate":42.5,"loss":0.0,"gpu_temp":0.0,"uptime_seconds":9}"#).unwrap();
    assert_eq!((read.gpu_temperature, read.loss), (None, None));
    let idle = r#"{"hashrate":0.0,"loss":0.0,"loss_trend":"stable","gpu_temp":0.0,"vram_total_mb":24564,"uptime_seconds":0}"#;
    assert_eq!(engine(idle), None);
    // It runs, and submitted nothing yet.
    let read = engine(r#"{"hashrate":0.0,"gpu_temp":41.0,"uptime_seconds":3}"#).unwrap();
    assert_eq!((read.hashrate, read.uptime_seconds), (0.0, Some(3)));
}

#[test]
fn the_summary_of_xmrig_is_read_and_a_window_that_is_not_full_is_no_sample() {
    let page = |total: &str| {
        format!(
            r#"{{"uptime":106,"results":{{"shares_good":3,"shares_total":5}},"hashrate":{{"total":[{total},null,null]}}}}"#
        )
    };
    let read = xmrig(&page("1207.19")).unwrap();
    assert_eq!(
        (read.hashrate, read.accepted, read.rejected),
        (1207.19, Some(3), Some(2))
    );
    assert_eq!(read.unit, HashrateUnit::HashesPerSecond);
    assert_eq!(xmrig(&page("null")), None);
    assert_eq!(xmrig(&page("\"n/a\"")), None);
}

#[test]
fn the_kilohashes_of_a_proxy_are_hashes() {
    for more in [
        r#""kind":"proxy","version":"6.21.0","workers":2"#,
        r#""miners":{"now":7,"max":7}"#,
        r#""upstreams":{"active":1},"uptime":5"#,
    ] {
        let page = format!(
            r#"{{{more},"hashrate":{{"total":[13.28,9.15,1.52,0.12,0.06,16.54]}},"results":{{"accepted":9,"rejected":2,"invalid":1}}}}"#
        );
        let read = xmrig(&page).unwrap();
        assert_eq!(
            (read.hashrate, read.unit),
            (13_280.0, HashrateUnit::HashesPerSecond)
        );
        assert_eq!((read.accepted, read.rejected), (Some(9), Some(2)));
    }
}

/// Pages of other miners, with their units: hashes, kilohashes or gigahashes a second.
const FOREIGN: [&str; 11] = [
    // T-Rex
    r#"{"accepted_count":3,"algorithm":"ethash","gpu_total":1,"gpus":[{"temperature":60,"hashrate":30123456}],"hashrate":30123456,"name":"t-rex","uptime":100}"#,
    // Scripts of operators
    r#"{"hashrate":30123456,"gpu_temp":60,"algorithm":"ethash"}"#,
    r#"{"hashrate":30.12,"unit":"MH/s","gpu_temp":60,"uptime_seconds":5}"#,
    // lolMiner
    r#"{"Software":"lolMiner 1.88","Session":{"Uptime":9,"Performance_Summary":30.12},"Algorithms":[{"Total_Performance":30.12}]}"#,
    // AxeOS
    r#"{"power":18.2,"temp":55.5,"hashRate":485.2,"sharesAccepted":3,"uptimeSeconds":99}"#,
    // GMiner
    r#"{"miner":"GMiner 3.44","uptime":100,"algorithm":"Ethash","devices":[{"speed":30123456,"temperature":60}]}"#,
    // NBMiner
    r#"{"miner":{"devices":[{"hashrate":"30.12 M"}],"total_hashrate":"30.12 M"},"stratum":{"accepted_shares":3},"version":"42.3"}"#,
    // Rigel
    r#"{"name":"rigel","uptime":100,"hashrate":{"ethash":30123456},"devices":[]}"#,
    // JCE
    r#"{"hashrate":{"thread_all":[13.25],"total":13.25,"max":14.0},"result":{"shares":3},"miner":{"version":"jce/0.33"}}"#,
    // cgminer
    r#"{"SUMMARY":[{"Elapsed":9,"MHS av":101360.62,"Accepted":5}]}"#,
    // SRBMiner-MULTI
    r#"{"rig_name":"r","mining_time":100,"algorithms":[{"name":"ethash","hashrate":{"1min":30123456}}]}"#,
];

#[test]
fn the_page_of_another_miner_is_refused_as_its_unit_is_another() {
    let summary = r#"{"uptime":1,"hashrate":{"total":[1.5,null,null]}}"#;
    let stats = r#"{"hashrate":42.5,"loss":0.83,"gpu_temp":67.0}"#;
    for page in FOREIGN
        .into_iter()
        .chain(["[]", "{}", "42.5", "<html></html>", ""])
    {
        for kind in [MinerKind::R3mes, MinerKind::Xmrig] {
            let refused = read(kind, page);
            assert!(
                matches!(refused, Err(UpstreamError::Unreadable(_))),
                "{page}: {refused:?}"
            );
        }
    }
    assert!(read(MinerKind::R3mes, summary).is_err());
    assert!(read(MinerKind::Xmrig, stats).is_err());
    let hint = read(MinerKind::R3mes, FOREIGN[0]).unwrap_err().to_string();
    assert!(hint.contains("miner.kind"), "{hint}");
}

proptest! {
    #[test]
    fn no_page_makes_the_parser_panic(page in prop::collection::vec(any::<u8>(), 0..200)) {
        for kind in [MinerKind::R3mes, MinerKind::Xmrig] {
            let _ = parse(kind, &page);
        }
    }
}

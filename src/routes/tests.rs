use super::*;
use proptest::prelude::*;

fn found(method: &str, path: &str) -> Option<(&'static str, String)> {
    match find(method, path) {
        RouteMatch::Route(route, param) => Some((route.path, param.to_owned())),
        _ => None,
    }
}

fn example(path: &str) -> String {
    path.replace("{wallet}", "remes1x").replace("{id}", "key_1")
}

#[test]
fn every_route_is_found_by_its_path_and_by_its_alias() {
    for (index, route) in ROUTES.iter().enumerate() {
        assert_eq!(route.index, index);
        for path in [route.path].into_iter().chain(route.alias) {
            match find(route.method, &example(path)) {
                RouteMatch::Route(found, _) => assert_eq!(found.index, index, "{path}"),
                other => panic!("{path}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_handler_that_changes_something_is_detached_unless_it_streams() {
    for route in ROUTES {
        let streams = route.rate == RateClass::Chat;
        // Counting tokens has a body and writes nothing.
        let writes = route.method != "GET" && route.rate != RateClass::Read;
        assert_eq!(route.detached, writes && !streams, "{}", route.path);
        assert!(!streams || route.unbounded, "{}", route.path);
    }
}

#[test]
fn health_and_metrics_are_answered_during_a_shutdown_and_nothing_else() {
    for route in ROUTES {
        let is_health = route.rate == RateClass::Health;
        assert_eq!(route.while_draining, is_health, "{}", route.path);
    }
}

#[test]
fn a_path_parameter_is_one_segment() {
    let param = |path| found("GET", path);
    assert_eq!(param("/users/abc"), Some(("/users/{wallet}", "abc".into())));
    assert_eq!(
        param("/users/abc/ledger"),
        Some(("/users/{wallet}/ledger", "abc".into()))
    );
    for path in [
        "/users/",
        "/users/a/b",
        "/users//ledger",
        "/users/a/ledger/",
        "",
        "/metrics/",
    ] {
        assert_eq!(param(path), None, "{path}");
    }
}

#[test]
fn a_base_address_that_ends_in_a_slash_leads_to_the_same_routes_but_the_operators_and_v1() {
    for route in ROUTES {
        let paths = [Some(route.path), route.alias].into_iter().flatten();
        for path in paths.filter(|path| *path != "/") {
            let path = path.replace(['{', '}'], "");
            let expected = found(route.method, &path);
            assert!(expected.is_some(), "{path}");
            let expected = expected.filter(|_| !has_one_spelling(route));
            assert_eq!(found(route.method, &format!("/{path}")), expected);
            assert_eq!(found(route.method, &format!("//{path}")), expected);
        }
    }
    for path in [
        "//",
        "///",
        "/users//abc",
        "//users//abc",
        "/system//version",
    ] {
        assert_eq!(found("GET", path), None, "{path}");
    }
}

#[test]
fn the_methods_of_a_path_are_listed_where_another_is_used() {
    assert!(
        matches!(find("PUT", "/api/keys"), RouteMatch::OtherMethods(allow) if allow == "POST, GET, HEAD")
    );
    assert_eq!(found("HEAD", "/livez"), Some(("/livez", String::new())));
    assert!(matches!(find("get", "/nothing"), RouteMatch::NotFound));
}

fn has_one_spelling(route: &Route) -> bool {
    let is_of_operator = matches!(route.auth, Auth::Admin | Auth::PublicElseMetrics);
    is_of_operator || route.path.starts_with("/v1/")
}

/// The table read segment by segment.
fn by_segments(path: &str) -> Vec<&'static Route> {
    let rest = path.trim_start_matches('/');
    let is_doubled = !rest.is_empty() && path.starts_with("//");
    let path = if is_doubled {
        &format!("/{rest}")
    } else {
        path
    };
    let is_open = |route: &&Route| !is_doubled || !has_one_spelling(route);
    let matches = |pattern: &str| {
        let (pattern, path) = (pattern.split('/'), path.split('/'));
        pattern.clone().count() == path.clone().count()
            && pattern.zip(path).all(|(pattern, segment)| {
                pattern == segment || (pattern.starts_with('{') && !segment.is_empty())
            })
    };
    let routes = ROUTES.iter().filter(is_open);
    let found = routes.filter(|route| matches(route.path) || route.alias.is_some_and(matches));
    found.collect()
}

proptest! {
    #[test]
    fn a_path_leads_where_its_segments_lead(method in "(GET|HEAD|POST|DELETE|PUT|get|)", path in "(/(v1|models|users|miner|stats|earnings|api|keys|rotate|ledger|credits|livez|blocks|user|info|ping||\\.\\.|%2e|\\{id\\}|[a-z\u{F6}]{1,3})){0,4}/?", junk in any::<String>()) {
        for path in [path.as_str(), junk.as_str()] {
            let matching = by_segments(path);
            let expected = matching.iter().find(|route| route.has_method(&method));
            match find(&method, path) {
                RouteMatch::Route(found, param) => {
                    prop_assert_eq!(Some(found.index), expected.map(|route| route.index));
                    prop_assert!(!param.contains('/') && path.contains(param));
                }
                RouteMatch::OtherMethods(allow) => {
                    prop_assert!(expected.is_none());
                    prop_assert!(matching.iter().all(|route| allow.contains(route.method)));
                    prop_assert!(!matching.is_empty());
                }
                RouteMatch::NotFound => prop_assert!(matching.is_empty()),
            }
        }
    }
}

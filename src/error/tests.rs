use super::*;

#[test]
fn the_body_never_contains_the_internal_message() {
    for error in [
        ApiError::from(StoreError::Unavailable(
            "disk I/O error in SELECT secret".to_owned(),
        )),
        ApiError::internal("SELECT secret"),
        ApiError::from(UpstreamError::Cut("secret".to_owned())),
    ] {
        let body = error.body("req_1");
        assert!(!body.contains("secret"), "{body}");
        assert!(error.internal.unwrap().contains("secret"));
    }
}

#[test]
fn an_invalid_field_is_named_for_every_kind_of_client() {
    let error = ApiError::from(InputError::field("/amount", "amount is required"));
    let body: serde_json::Value = serde_json::from_str(&error.body("req_1")).unwrap();
    assert_eq!(body["errors"][0]["pointer"], "/amount");
    assert_eq!(body["error"]["param"], "amount");
    assert_eq!(body["detail"], body["message"]);
    assert_eq!(body["status"], 400);
}

use hyper::StatusCode;
use serde_json::json;

use crate::app::App;
use crate::auth::{KeyRequest, LoginError, Scopes};
use crate::call::{Call, Reply};
use crate::error::{ApiError, ErrorCode};
use crate::model::{Fields, text};
use crate::store::{StoreError, issue_key};

pub(super) fn challenge(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let wallet =
        Fields::parse(call.text()?, "", &["wallet_address"])?.required_wallet("wallet_address")?;
    let issued = app
        .challenges
        .issue(&wallet, &app.config.public_name(), app.clock.now());
    let (message, expires_at) =
        issued.map_err(|error| ApiError::internal(format!("no random bytes: {error}")))?;
    Reply::json(
        StatusCode::OK,
        &json!({ "message": message, "expires_at": expires_at }),
    )
}

pub(super) async fn login(app: &App, call: &Call) -> Result<Reply, ApiError> {
    let fields = Fields::parse(
        call.text()?,
        "",
        &["wallet_address", "message", "pub_key", "signature"],
    )?;
    let wallet = fields.required_wallet("wallet_address")?;
    let message = fields.required("message", text)?;
    let (pub_key, signature) = (
        fields.required("pub_key", text)?,
        fields.required("signature", text)?,
    );
    let now = app.clock.now();
    app.challenges
        .redeem(&wallet, &message, &pub_key, &signature, now)
        .map_err(|error| match error {
            LoginError::Refused(detail) => {
                app.metrics.table.auth_failures.inc();
                ApiError::new(ErrorCode::InvalidSignature, detail)
            }
            LoginError::Full => ApiError::new(ErrorCode::Overloaded, error.to_string()),
        })?;
    let ttl = app.config.auth.login_ttl;
    let request = KeyRequest {
        wallet: Some(wallet),
        name: "login".to_owned(),
        scopes: Scopes::LOGIN,
        expires_at: Some(now.plus(ttl)),
        login: true,
    };
    let most = app.config.auth.max_keys_per_wallet;
    let issued = issue_key(&*app.store, request, most, now, None).await?;
    let user = app
        .store
        .user(wallet)
        .await?
        .ok_or(StoreError::UserNotFound)?;
    let body = json!({
        "access_token": issued.key.reveal(),
        "token_type": "bearer",
        "expires_in": ttl.as_secs(),
        "user": user,
    });
    Reply::json(StatusCode::OK, &body)
}

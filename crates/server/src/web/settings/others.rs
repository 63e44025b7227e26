//! Who is told of events, which devices may enrol, and the backup.

use axum::{
    Json,
    extract::{Path, State},
    response::Response,
};
use fota_proto::{
    manager::{EnrolmentKeyRequest, ReasonBody},
    notify::{WebhookEnable, WebhookRequest},
};

use super::{Made, Tested, page, unknown};
use crate::{
    AppState,
    api::{
        backup, enrolment_keys,
        extract::{Json as JsonBody, JsonOrNothing, Segment},
        problem::Refusal,
        webhooks,
    },
    auth::By,
    web::{chrome::Ask, confirm::go, fault::Fault, form::Form},
};

const DAY_S: u32 = 24 * 60 * 60;

/// `POST /settings/webhooks`: the page again, with the key of its signatures on it this once.
pub async fn add_webhook(
    State(state): State<AppState>,
    by: By,
    ask: Ask,
    form: Form,
) -> Result<Response, Fault> {
    let events = form.text("events").split([' ', ',']);
    let request = WebhookRequest {
        name: form.text("name").to_owned(),
        url: form.text("url").to_owned(),
        events: events
            .filter(|kind| !kind.is_empty())
            .map(str::to_owned)
            .collect(),
        secret: None,
    };
    let to = State(state.clone());
    let (_, Json(made)) = webhooks::create(to, by, JsonBody(request)).await?;
    let made = Made {
        what: "key of the signatures of webhook",
        name: made.webhook.name,
        secret: made.secret.reveal().to_owned(),
    };
    page(&state, &ask, Some(made), None).await
}

/// `POST /settings/webhooks/{name}/{action}`: `test`, `enable`, `disable` or `remove`.
pub async fn change_webhook(
    State(state): State<AppState>,
    by: By,
    ask: Ask,
    Path((name, action)): Path<(String, String)>,
    _form: Form,
) -> Result<Response, Fault> {
    let (to, segment) = (State(state.clone()), Segment(name.clone()));
    match action.as_str() {
        "test" => {
            let Json(delivery) = webhooks::test(to, by, segment).await?;
            return page(&state, &ask, None, Some(Tested { name, delivery })).await;
        }
        "enable" => {
            let how = JsonOrNothing(WebhookEnable::default());
            let Json(_) = webhooks::enable(to, by, segment, how).await?;
        }
        "disable" => {
            let reason = "by hand, in the settings".to_owned();
            let body = JsonOrNothing(ReasonBody { reason });
            let Json(_) = webhooks::disable(to, by, segment, body).await?;
        }
        "remove" => {
            webhooks::remove(to, by, segment).await?;
        }
        action => return Err(unknown("webhook", action)),
    }
    Ok(go("/settings#webhooks"))
}

/// `POST /settings/enrolment-keys`: the page again, with the secret on it this once.
pub async fn add_enrolment_key(
    State(state): State<AppState>,
    by: By,
    ask: Ask,
    form: Form,
) -> Result<Response, Fault> {
    let needed = |name: &'static str| {
        let missing = move || Refusal::field(name, format!("{name} is empty: give a number"));
        form.number::<u32>(name)?.ok_or_else(missing)
    };
    let request = EnrolmentKeyRequest {
        name: form.text("name").to_owned(),
        devices_max: needed("devices_max")?,
        expires_in_s: needed("days")?.saturating_mul(DAY_S),
        group: form.maybe("group"),
        id_prefix: form.maybe("id_prefix"),
    };
    let to = State(state.clone());
    let (_, Json(made)) = enrolment_keys::create(to, by, JsonBody(request)).await?;
    let made = Made {
        what: "secret of enrolment key",
        name: made.enrolment_key.name,
        secret: made.secret,
    };
    page(&state, &ask, Some(made), None).await
}

/// `POST /settings/enrolment-keys/{name}/revoke`.
pub async fn revoke_enrolment_key(
    State(state): State<AppState>,
    by: By,
    Path(name): Path<String>,
    _form: Form,
) -> Result<Response, Fault> {
    enrolment_keys::revoke(State(state), by, Segment(name)).await?;
    Ok(go("/settings#enrolment"))
}

/// `POST /settings/backup`: the file.
pub async fn make_backup(
    State(state): State<AppState>,
    by: By,
    _form: Form,
) -> Result<Response, Fault> {
    Ok(backup::make(State(state), by).await?)
}

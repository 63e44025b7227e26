use axum::{Json, extract::State, http::StatusCode};
use fota_proto::{
    manager::{Page, Problem},
    operators::{PasswordRequest, Role, RoleRequest, Secret, User, UserRequest},
};

use super::{
    extract::{Json as JsonBody, Query, Segment},
    page::{PageQuery, limit, page},
    problem::Refusal,
};
use crate::{
    AppState,
    auth::{
        By, Principal, Record, Subject,
        guard::role_needed,
        password::{PASSWORD_BYTES_MAX, PASSWORD_BYTES_MIN},
        session::{check, unhashed},
    },
    service::{commit_by, rollouts::device_id},
    store::{Account, Tx},
};

/// Users by name.
#[utoipa::path(get, path = "/api/v1/users", tag = "users", params(PageQuery),
    responses((status = 200, body = Page<User>)))]
pub async fn list(
    State(state): State<AppState>,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<User>>, Refusal> {
    let limit = limit(query.limit)?;
    let mut tx = state.store.read().await?;
    let mut items = Vec::new();
    for account in tx.accounts(&query.after.unwrap_or_default(), limit).await? {
        items.push(shown(&mut tx, account).await?);
    }
    Ok(Json(page(items, limit, |user: &User| user.name.clone())))
}

async fn shown(tx: &mut Tx, account: Account) -> Result<User, Refusal> {
    Ok(User {
        sessions: tx.count_sessions_of(account.id).await?,
        name: account.name,
        role: account.role,
        created_at: account.created_at,
        password_at: account.password_at,
    })
}

/// Makes a user.
#[utoipa::path(post, path = "/api/v1/users", tag = "users", request_body = UserRequest,
    responses((status = 201, body = User), (status = 409, body = Problem)))]
pub async fn create(
    State(state): State<AppState>,
    by: By,
    JsonBody(body): JsonBody<UserRequest>,
) -> Result<(StatusCode, Json<User>), Refusal> {
    let name = device_id("name", &body.name)?.to_string();
    check_password("password", &body.password)?;
    // Hashing takes its time; a taken name is told before it.
    must_be_free(&mut state.store.read().await?, &name).await?;
    let hashed = state.auth.hasher.hash(&body.password).await;
    let hashed = hashed.map_err(unhashed)?;
    let now = state.now_ms();
    let mut tx = state.store.write().await?;
    let inserted = tx
        .insert_account(&name, body.role, Some(&hashed), now)
        .await?;
    if inserted.is_none() {
        return Err(taken(&name));
    }
    let record = Record::new(
        "user.created",
        format!("user:{name}"),
        format!("role {}", body.role),
    );
    commit_by(&state, tx, &by, record, &[], false).await?;
    let user = User {
        name,
        role: body.role,
        created_at: now,
        password_at: now,
        sessions: 0,
    };
    Ok((StatusCode::CREATED, Json(user)))
}

async fn must_be_free(tx: &mut Tx, name: &str) -> Result<(), Refusal> {
    match tx.account_named(name).await? {
        None => Ok(()),
        Some(_) => Err(taken(name)),
    }
}

fn taken(name: &str) -> Refusal {
    let detail = format!("user {name} exists already: choose another name");
    Refusal::conflict("user_exists", detail).of("name")
}

fn check_password(field: &str, password: &Secret) -> Result<(), Refusal> {
    let bytes = password.reveal().len();
    if (PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&bytes) {
        return Ok(());
    }
    let detail = format!(
        "{field} has {bytes} bytes: give {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX}; a few \
         words that only you would put together are good"
    );
    Err(Refusal::field(field, detail))
}

async fn find(tx: &mut Tx, name: &str) -> Result<Account, Refusal> {
    let name = device_id("name", name)?;
    let found = tx.account_named(name.as_str()).await?;
    found.ok_or_else(|| Refusal::not_found(format!("user {name}")).of("name"))
}

/// Removes a user; all sessions and tokens of the user end.
#[utoipa::path(delete, path = "/api/v1/users/{name}", tag = "users",
    params(("name" = String, Path, description = "User")),
    responses((status = 204), (status = 404, body = Problem)))]
pub async fn remove(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
) -> Result<StatusCode, Refusal> {
    let mut tx = state.store.write().await?;
    let account = find(&mut tx, &name).await?;
    tx.delete_account(account.id).await?;
    let record = Record::new("user.removed", format!("user:{}", account.name), "");
    commit_by(&state, tx, &by, record, &[], false).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a user another role; it counts from the next request on.
#[utoipa::path(post, path = "/api/v1/users/{name}/role", tag = "users",
    params(("name" = String, Path, description = "User")), request_body = RoleRequest,
    responses((status = 200, body = User), (status = 404, body = Problem)))]
pub async fn set_role(
    State(state): State<AppState>,
    by: By,
    Segment(name): Segment,
    JsonBody(body): JsonBody<RoleRequest>,
) -> Result<Json<User>, Refusal> {
    let mut tx = state.store.write().await?;
    let account = find(&mut tx, &name).await?;
    tx.set_role(account.id, body.role).await?;
    let detail = format!("{} instead of {}", body.role, account.role);
    let object = format!("user:{}", account.name);
    let user = Account {
        role: body.role,
        ..account
    };
    let user = shown(&mut tx, user).await?;
    let record = Record::new("user.role", object, detail);
    commit_by(&state, tx, &by, record, &[], false).await?;
    Ok(Json(user))
}

/// Sets a password: one's own with the current one, or as an admin that of anybody. All sessions
/// of the user end; tokens go on.
#[utoipa::path(post, path = "/api/v1/users/{name}/password", tag = "users",
    params(("name" = String, Path, description = "User")), request_body = PasswordRequest,
    responses((status = 204), (status = 403, body = Problem), (status = 404, body = Problem)))]
pub async fn set_password(
    State(state): State<AppState>,
    principal: Principal,
    by: By,
    origin: axum::Extension<crate::auth::session::Origin>,
    Segment(name): Segment,
    JsonBody(body): JsonBody<PasswordRequest>,
) -> Result<StatusCode, Refusal> {
    let is_own = matches!(principal.subject, Subject::User(_)) && principal.name == name;
    if !is_own && principal.role < Role::Admin {
        return Err(role_needed(&principal, Role::Admin));
    }
    check_password("password", &body.password)?;
    let account = find(&mut state.store.read().await?, &name).await?;
    if is_own {
        // Whoever finds an open browser must not be able to keep the account.
        let current = body.current.clone().ok_or_else(|| {
            Refusal::field("current", "current is missing: give the password until now")
        })?;
        let login = fota_proto::operators::LoginRequest {
            user: account.name.clone(),
            password: current,
        };
        let checked = check(&state, &login, origin.address).await;
        checked.map_err(|refusal| match refusal.code() {
            "login_wrong" => Refusal::new(
                StatusCode::FORBIDDEN,
                "password_wrong",
                "current is not the password until now: check it, or ask an admin for a new one",
            )
            .of("current"),
            _ => refusal,
        })?;
    }
    let hashed = state.auth.hasher.hash(&body.password).await;
    let hashed = hashed.map_err(unhashed)?;
    let now = state.now_ms();
    let mut tx = state.store.write().await?;
    tx.set_password(account.id, &hashed, now).await?;
    let ended = tx.delete_sessions_of(account.id).await?;
    let record = Record::new(
        "user.password",
        format!("user:{}", account.name),
        format!("{ended} sessions ended"),
    );
    commit_by(&state, tx, &by, record, &[], false).await?;
    Ok(StatusCode::NO_CONTENT)
}

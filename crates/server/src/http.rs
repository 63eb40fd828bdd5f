//! Plain HTTP beside gRPC on the client port: health, version, metrics, status.

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;

use crate::{api::API_VERSION, backend::Backend};

/// What the endpoints need beyond the API's backend.
pub(crate) trait Observed: Backend {
    /// All metrics in Prometheus' text format.
    fn metrics(&self) -> String;

    /// Everything about the node, as JSON.
    fn debug_status(&self) -> impl Future<Output = String> + Send;
}

/// The endpoints.
pub(crate) fn routes<B: Observed>(backend: B) -> Router {
    Router::new()
        .route("/health", get(health::<B>))
        .route("/version", get(version))
        .route("/metrics", get(metrics::<B>))
        .route("/debug/raft/status", get(raft_status::<B>))
        .with_state(backend)
}

const JSON: &str = "application/json";
const PROMETHEUS: &str = "text/plain; version=0.0.4";

fn body(code: StatusCode, kind: &'static str, text: String) -> Response {
    (code, [(CONTENT_TYPE, kind)], text).into_response()
}

fn json(code: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => body(code, JSON, text),
        Err(error) => body(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

/// Healthy is who can serve: there is a leader and a linearizable read gets through, as in etcd. With `?serializable=true`
/// the leader is not asked for, and any member that answers is healthy.
async fn health<B: Observed>(State(backend): State<B>, RawQuery(query): RawQuery) -> Response {
    /// etcd's spelling: `true` is a string.
    #[derive(Serialize)]
    struct Health {
        health: &'static str,
        #[serde(skip_serializing_if = "String::is_empty")]
        reason: String,
    }
    let local = query.is_some_and(|query| query.split('&').any(|pair| pair == "serializable=true"));
    let reason = if local {
        String::new()
    } else if backend.vitals().leader == 0 {
        "RAFT NO LEADER".to_owned()
    } else {
        let read =
            tokio::time::timeout(std::time::Duration::from_secs(2), backend.read_index()).await;
        match read {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "a linearizable read takes too long".to_owned(),
        }
    };
    if reason.is_empty() {
        json(StatusCode::OK, &Health { health: "true", reason })
    } else {
        json(StatusCode::SERVICE_UNAVAILABLE, &Health { health: "false", reason })
    }
}

async fn version() -> Response {
    #[derive(Serialize)]
    struct Version {
        etcdserver: &'static str,
        etcdcluster: &'static str,
        oarlock: &'static str,
    }
    let version = Version {
        etcdserver: API_VERSION,
        etcdcluster: "3.5.0",
        oarlock: env!("CARGO_PKG_VERSION"),
    };
    json(StatusCode::OK, &version)
}

async fn metrics<B: Observed>(State(backend): State<B>) -> Response {
    body(StatusCode::OK, PROMETHEUS, backend.metrics())
}

async fn raft_status<B: Observed>(State(backend): State<B>) -> Response {
    body(StatusCode::OK, JSON, backend.debug_status().await)
}

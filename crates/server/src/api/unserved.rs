//! The rest of etcd's API: answered with `UNIMPLEMENTED` and a sentence.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    middleware::Next,
    response::{IntoResponse, Response},
};

/// `UNIMPLEMENTED`, as a gRPC status.
const UNIMPLEMENTED: &str = "12";

/// Gives every answer "unimplemented" a reason. tonic answers unknown methods with a bare code, and users of a store
/// that has no leases, watches and users yet deserve to read that, instead of guessing.
pub(crate) async fn explain_unserved(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let is_grpc = |headers: &HeaderMap| {
        headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    };
    let asked_in_grpc = is_grpc(request.headers());
    let mut response = next.run(request).await;
    if !asked_in_grpc {
        // A browser gets an answer of its own kind, not tonic's to a method that it does not know.
        return if is_grpc(response.headers()) {
            StatusCode::NOT_FOUND.into_response()
        } else {
            response
        };
    }
    let unserved =
        response.headers().get("grpc-status").is_some_and(|status| status == UNIMPLEMENTED);
    if !is_grpc(response.headers()) {
        // Not one of our services: axum said "not found", which a gRPC client cannot read.
        response = ([(CONTENT_TYPE, "application/grpc"), (GRPC_STATUS, UNIMPLEMENTED)], ())
            .into_response();
    } else if !unserved || response.headers().contains_key("grpc-message") {
        return response;
    }
    response.headers_mut().insert("grpc-message", HeaderValue::from_static(reason(&path)));
    response
}

const GRPC_STATUS: axum::http::HeaderName = axum::http::HeaderName::from_static("grpc-status");

/// Why a method is not served. The texts keep to the characters that `grpc-message` takes unescaped.
fn reason(path: &str) -> &'static str {
    match path {
        "/etcdserverpb.KV/Compact" => {
            "oarlock: only the latest revision is kept, so there is nothing to compact"
        }
        "/etcdserverpb.Maintenance/Defragment" => {
            "oarlock: keys are in memory and the log frees whole segments, so there is nothing to defragment"
        }
        "/etcdserverpb.Maintenance/Hash" | "/etcdserverpb.Maintenance/HashKV" => {
            "oarlock: hashes over the API are not served yet; /debug/raft/status shows a digest of the key-value state"
        }
        "/etcdserverpb.Maintenance/Snapshot" => {
            "oarlock: snapshots over the API are not served yet; copy the data directory of a stopped member instead"
        }
        "/etcdserverpb.Maintenance/Downgrade" => "oarlock: there is no older version to go back to",
        _ if path.starts_with("/etcdserverpb.Watch/") => "oarlock: watches are not served yet",
        _ if path.starts_with("/etcdserverpb.Lease/") => "oarlock: leases are not served yet",
        _ if path.starts_with("/etcdserverpb.Auth/") => {
            "oarlock: users and roles are not served yet"
        }
        _ if path.starts_with("/v3lockpb.") || path.starts_with("/v3electionpb.") => {
            "oarlock: locks and elections on the server need leases, which are not served yet"
        }
        _ => "oarlock: there is no such method",
    }
}

//! What tonic answers by itself, in the words of etcd: the rest of etcd's API with `UNIMPLEMENTED` and a sentence, too
//! large a message with what grpc-go says.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
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
    } else if !unserved || response.headers().contains_key(GRPC_MESSAGE) {
        return say_too_large(response);
    }
    response.headers_mut().insert(GRPC_MESSAGE, HeaderValue::from_static(reason(&path)));
    response
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// `RESOURCE_EXHAUSTED`, as a gRPC status.
const RESOURCE_EXHAUSTED: &str = "8";

/// Gives a message beyond the limit grpc-go's code and text (`recvMsg` in its `rpc_util.go`), which etcd's clients know:
/// tonic says `OUT_OF_RANGE`, which is etcd's code for revisions.
fn say_too_large(mut response: Response) -> Response {
    let message = response.headers().get(GRPC_MESSAGE).and_then(|message| message.to_str().ok());
    let too_large = message.and_then(|message| {
        message.strip_prefix("Error,%20decoded%20message%20length%20too%20large:")
    });
    // Spaces are escaped as %20: the numbers are the words of digits alone.
    let numbers = too_large.map(|rest| {
        let words = rest.split("%20");
        words.filter_map(|word| word.parse().ok()).collect::<Vec<u64>>()
    });
    if let Some([found, limit]) = numbers.as_deref() {
        let text =
            format!("grpc:%20received%20message%20larger%20than%20max%20({found}%20vs.%20{limit})");
        if let Ok(text) = HeaderValue::try_from(text) {
            response.headers_mut().insert(GRPC_MESSAGE, text);
            response
                .headers_mut()
                .insert(GRPC_STATUS, HeaderValue::from_static(RESOURCE_EXHAUSTED));
        }
    }
    response
}

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

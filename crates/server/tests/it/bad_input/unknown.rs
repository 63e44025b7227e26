//! Paths and methods that nobody serves.

use std::collections::BTreeSet;

use fota_server::api::ROUTES;

use crate::support::*;

#[tokio::test]
async fn an_unknown_path_and_a_wrong_method_are_problems_too() {
    let server = Server::start(Setup::default()).await;
    for path in [
        "/nothing",
        "/api/v1/nothing",
        "/d/v1/",
        "/api/v1/devices/a/b/c",
        "/%2e%2e/%2e%2e/etc/passwd",
    ] {
        let (code, _, _) = server.get(path).await.problem(404);
        assert_eq!(code, "not_found", "{path}");
    }
    let methods: BTreeSet<&str> = ["GET", "POST", "PUT", "PATCH", "DELETE"].into();
    for (_, path, _) in ROUTES {
        let taken: BTreeSet<&str> = ROUTES
            .iter()
            .filter(|(_, other, _)| other == path)
            .map(|(method, _, _)| *method)
            .collect();
        for method in &methods - &taken {
            let filled = path
                .replace("{sha256}", &"0".repeat(64))
                .replace(['{', '}'], "");
            // `/rollouts/preview` is also `/rollouts/{id}`, and `/groups/{name}` is not a list.
            let request = server.request(method.parse().expect("a method"), &filled);
            let (code, _, _) = Reply::of(request).await.problem(405);
            assert_eq!(code, "method_not_allowed", "{method} {path}");
        }
    }
}

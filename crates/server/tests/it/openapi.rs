//! The description of the API: complete, and changed only on purpose.

use std::collections::BTreeSet;

use fota_server::api::ROUTES;

use crate::support::*;

#[tokio::test]
async fn every_route_is_described_and_the_description_changes_only_on_purpose() {
    let server = Server::start(Setup::default()).await;
    let url = format!("{}/api/openapi.json", server.base);
    let document = Reply::of(server.http.get(url)).await.json();
    let (mut described, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            described.insert((method.to_uppercase(), path.clone()));
            let name = operation["operationId"].as_str().expect("a name");
            assert!(
                names.insert(name.to_owned()),
                "two operations are called {name}"
            );
        }
    }
    let routes: BTreeSet<_> = ROUTES
        .iter()
        .map(|(m, p, _)| ((*m).to_owned(), (*p).to_owned()))
        .collect();
    assert_eq!(described, routes);
    insta::assert_json_snapshot!("openapi", document);
}

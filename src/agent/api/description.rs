//! The description of the API (OpenAPI 3.1), generated from its types.

use axum::http::Method;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, OpenApi as Description, PathItem, Ref, Response, ResponseBuilder,
        path::Operation,
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use super::{
    access::Scope, batch, connections, contacts, dids, events, inbox, invitations, mediators, messages, metrics,
    outbox, state, threads, tokens, webhook_requests,
};

/// The description of the API as JSON (OpenAPI 3.1).
pub fn openapi() -> String {
    ApiDescription::openapi().to_pretty_json().unwrap_or_default()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Claviger",
        description = "The application's API of a DIDComm agent. An error is {\"error\": {\"code\", \"message\"}}. Times are in \
                       milliseconds since 1970, UTC. Each operation needs one scope (read, send or manage), which its security \
                       requirement names. On the Unix socket the kernel tells the caller's user id, and no bearer token is \
                       needed."
    ),
    paths(
        messages::send,
        batch::send,
        outbox::list,
        outbox::status,
        outbox::cancel,
        outbox::retry,
        inbox::list,
        inbox::get,
        inbox::acknowledge,
        events::stream,
        events::recorded,
        threads::thread,
        state::status,
        state::tokens,
        metrics::metrics,
        tokens::status,
        dids::list,
        dids::reload,
        dids::rotate,
        dids::give_up,
        connections::list,
        contacts::change,
        contacts::delete,
        contacts::end,
        contacts::resume,
        contacts::blocked,
        mediators::add,
        mediators::list,
        mediators::remove,
        invitations::create,
        invitations::list,
        invitations::revoke,
        invitations::accept,
        webhook_requests::list,
        webhook_requests::resume,
        webhook_requests::dead_letters,
        webhook_requests::resend,
        webhook_requests::drop_letter
    ),
    modifiers(&Common)
)]
struct ApiDescription;

/// Adds the authentication, the scope, and the errors that all operations have in common.
struct Common;

/// The security schemes: a bearer token on the loopback interface, a certificate from other machines.
const SCHEMES: [&str; 2] = ["token", "certificate"];

impl Modify for Common {
    fn modify(&self, description: &mut Description) {
        let mut token = Http::new(HttpAuthScheme::Bearer);
        token.description =
            Some("The token of `token_file` or [[api.token]]. Needed on the loopback interface only".to_owned());
        let certificate = SecurityScheme::MutualTls {
            description: Some(
                "The certificate of an [[api.client]]. Needed on the port of [api.remote] only".to_owned(),
            ),
            deprecated: None,
            extensions: None,
        };
        let schemes = &mut description.components.get_or_insert_default().security_schemes;
        for (name, scheme) in SCHEMES.into_iter().zip([SecurityScheme::Http(token), certificate]) {
            schemes.insert(name.to_owned(), scheme.into());
        }
        for (path, item) in &mut description.paths.paths {
            for (method, operation) in operations(item) {
                let scope = Scope::of(&method, path).name();
                operation.security = Some(SCHEMES.map(|name| SecurityRequirement::new(name, [scope])).into());
                let scope_is_missing =
                    format!("The caller has no scope {scope:?}, or is not known, or comes from a page");
                let errors = [
                    ("401", "On the loopback interface: the bearer token is wrong or missing"),
                    ("403", &scope_is_missing),
                    ("500", "The store is damaged"),
                ];
                for (status, description) in errors {
                    operation
                        .responses
                        .responses
                        .entry(status.to_owned())
                        .or_insert_with(|| error_response(description).into());
                }
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn error_response(description: &str) -> Response {
    let content = Content::new(Some(Ref::from_schema_name("ApiError")));
    ResponseBuilder::new().description(description).content("application/json", content).build()
}

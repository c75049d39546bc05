//! The description of the API (OpenAPI 3.1), generated from its types.

use utoipa::{
    Modify, OpenApi,
    openapi::{
        Content, OpenApi as Description, PathItem, Ref, Response, ResponseBuilder,
        path::Operation,
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use super::{connections, dids, events, inbox, invitations, mediators, messages, state};

/// The description of the API as JSON (OpenAPI 3.1).
pub fn openapi() -> String {
    ApiDescription::openapi().to_pretty_json().unwrap_or_default()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Claviger",
        description = "The application's API of a DIDComm agent. An error is {\"error\": {\"code\", \"message\"}}. Times are in \
                       milliseconds since 1970, UTC. On the Unix socket the kernel tells the caller's user id, and no bearer \
                       token is needed."
    ),
    paths(
        messages::send,
        messages::status,
        inbox::list,
        inbox::acknowledge,
        events::stream,
        state::thread,
        state::status,
        state::tokens,
        dids::list,
        dids::reload,
        dids::rotate,
        dids::give_up,
        connections::list,
        connections::end,
        mediators::add,
        mediators::list,
        mediators::remove,
        invitations::create,
        invitations::list,
        invitations::revoke,
        invitations::accept
    ),
    modifiers(&Common)
)]
struct ApiDescription;

/// Adds the authentication and the errors that all operations have in common.
struct Common;

const SECURITY_SCHEME: &str = "token";

impl Modify for Common {
    fn modify(&self, description: &mut Description) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description =
            Some("The token of `token_file` in [api]. Needed on the loopback interface only".to_owned());
        description
            .components
            .get_or_insert_default()
            .security_schemes
            .insert(SECURITY_SCHEME.to_owned(), SecurityScheme::Http(scheme).into());
        description.security = Some(vec![SecurityRequirement::new(SECURITY_SCHEME, Vec::<String>::new())]);
        for operation in description.paths.paths.values_mut().flat_map(operations) {
            let errors = [
                ("401", "On the loopback interface: the bearer token is wrong or missing"),
                ("403", "On the loopback interface: the Host is not a loopback address, or there is an Origin"),
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

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten()
}

fn error_response(description: &str) -> Response {
    let content = Content::new(Some(Ref::from_schema_name("ApiError")));
    ResponseBuilder::new().description(description).content("application/json", content).build()
}

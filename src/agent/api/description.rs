//! The description of the API (OpenAPI 3.1), from the types that it speaks.

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
    Described::openapi().to_pretty_json().unwrap_or_default()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Claviger",
        description = "The application's side of a DIDComm agent. An error is {\"error\": {\"code\", \"message\"}}; times are \
                       in milliseconds since 1970, UTC. On the Unix socket the kernel says whose process asks, and no token \
                       is wanted."
    ),
    paths(
        messages::send,
        messages::status,
        inbox::list,
        inbox::acknowledge,
        events::follow,
        state::thread,
        state::status,
        state::tokens,
        dids::list,
        dids::reload,
        dids::rotate,
        dids::give_up,
        dids::end,
        connections::list,
        mediators::adopt,
        mediators::list,
        mediators::leave,
        invitations::create,
        invitations::list,
        invitations::revoke,
        invitations::accept
    ),
    modifiers(&Everywhere)
)]
struct Described;

/// What may come of every request.
struct Everywhere;

const TOKEN: &str = "token";

impl Modify for Everywhere {
    fn modify(&self, description: &mut Description) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some("The token of `token_file` in [api]; on the loopback interface only".to_owned());
        description
            .components
            .get_or_insert_default()
            .security_schemes
            .insert(TOKEN.to_owned(), SecurityScheme::Http(scheme).into());
        description.security = Some(vec![SecurityRequirement::new(TOKEN, Vec::<String>::new())]);
        for operation in description.paths.paths.values_mut().flat_map(operations) {
            let answers = [
                ("401", "On the loopback interface: the bearer token is wrong or absent"),
                ("403", "On the loopback interface: the Host is not the loopback's, or there is an Origin"),
                ("500", "The store is damaged"),
            ];
            for (status, said) in answers {
                operation.responses.responses.entry(status.to_owned()).or_insert_with(|| error(said).into());
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten()
}

fn error(said: &str) -> Response {
    let content = Content::new(Some(Ref::from_schema_name("ApiError")));
    ResponseBuilder::new().description(said).content("application/json", content).build()
}

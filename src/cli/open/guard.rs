//! Who may use the page: the user of this command, in one browser.
//!
//! Every process of the machine, and every page in the user's browser, can send requests to a port of the loopback interface.
//! So a request needs
//! - a connection of the same user, as the kernel reports it (Linux): another user may see the link in the list of processes;
//! - the `Host` of this port, against DNS rebinding;
//! - a cookie that no script reads and no other site causes to be sent (HttpOnly, SameSite=Strict), which the link gives once;
//! - to change something: the `Origin` of this port, and a token that only our forms have, against CSRF.
//!
//! A browser sends cookies to every port of a host, so another program on this machine may learn the cookie if the user opens
//! that program's page. It cannot use the cookie from the account of another user.

use std::{
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::cli::failure::Failure;

/// The secrets of one run of the command.
pub struct Guard {
    address: SocketAddr,
    /// The address and port, as in the header `Host`.
    host: String,
    /// The key in the link; none once it was used.
    link: Mutex<Option<Zeroizing<String>>>,
    cookie: Zeroizing<String>,
    cookie_name: String,
    form_token: Zeroizing<String>,
    last_request: Mutex<Instant>,
}

/// The path of the link.
pub const OPEN: &str = "/open";
/// The hidden field of every form.
pub const FORM_TOKEN: &str = "form_token";

impl Guard {
    pub fn new(address: SocketAddr) -> Result<Self, Failure> {
        Ok(Self {
            address,
            host: address.to_string(),
            link: Mutex::new(Some(random()?)),
            cookie: random()?,
            // Cookies are shared by all ports of a host.
            cookie_name: format!("claviger-{}", address.port()),
            form_token: random()?,
            last_request: Mutex::new(Instant::now()),
        })
    }

    /// The link that gives the cookie, once.
    pub fn link(&self) -> String {
        let key = self.link.lock().expect("no holder panics").clone().unwrap_or_default();
        format!("http://{}{OPEN}?key={}", self.host, key.as_str())
    }

    /// The token of our forms.
    pub fn form_token(&self) -> &str {
        &self.form_token
    }

    /// Whether a form has our token.
    pub fn is_our_form(&self, token: Option<&String>) -> bool {
        token.is_some_and(|token| equal(token, &self.form_token))
    }

    /// Waits until there was no request for this long.
    pub async fn idle_for(&self, time: Duration) {
        loop {
            let unused = self.last_request.lock().expect("no holder panics").elapsed();
            match time.checked_sub(unused).filter(|left| !left.is_zero()) {
                Some(left) => tokio::time::sleep(left).await,
                None => return,
            }
        }
    }

    /// The address and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether a request names this address and port as its `Host`.
    pub fn is_our_host(&self, headers: &HeaderMap) -> bool {
        headers.get(header::HOST).and_then(|host| host.to_str().ok()) == Some(self.host.as_str())
    }

    /// The value of `Set-Cookie` that lets a browser in.
    pub fn set_cookie(&self) -> String {
        format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie_name, self.cookie.as_str())
    }

    /// Notes that the page is used.
    pub fn used(&self) {
        *self.last_request.lock().expect("no holder panics") = Instant::now();
    }

    /// Takes the key of the link. Returns whether it is right, and is used for the first time.
    pub fn take_link(&self, query: &str) -> bool {
        let key = query.split('&').find_map(|pair| pair.strip_prefix("key=")).unwrap_or_default();
        let mut link = self.link.lock().expect("no holder panics");
        let is_right = link.as_ref().is_some_and(|link| equal(key, link));
        if is_right {
            *link = None;
        }
        is_right
    }

    /// Whether a request has the cookie.
    pub fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        cookies
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .any(|(name, value)| name == self.cookie_name && equal(value, &self.cookie))
    }

    /// Whether a request that changes something comes from our own page.
    pub fn is_same_origin(&self, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        text("origin") == Some(&format!("http://{}", self.host))
            && text("sec-fetch-site").is_none_or(|site| site == "same-origin")
    }
}

fn equal(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// 256 random bits, in hexadecimal.
fn random() -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|error| Failure::new("io", format!("random numbers: {error}")))?;
    Ok(Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

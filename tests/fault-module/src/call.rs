//! One call: counted, delayed, refused, and written to the trace.

use std::{
    sync::{Arc, RwLockReadGuard},
    thread,
};

use cryptoki_sys::*;

use crate::{
    control::{self, Orders, POLL_INTERVAL},
    counters::Counter,
    function::Function,
    live_objects,
    order::{Action, Order},
};

/// What a function works on: the module, a slot, or a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Module,
    Slot,
    Session(CK_SESSION_HANDLE),
}

/// A call that has begun, and the orders for it.
pub(crate) struct Call {
    function: Function,
    /// The mechanism's type, for the trace.
    pub(crate) mechanism: Option<CK_MECHANISM_TYPE>,
    /// The code to return without calling the real function.
    refused: Option<CK_RV>,
    /// Whether to return a wrong result.
    wrong: bool,
    /// Whether the result is an object with an empty value.
    empty: bool,
    /// The code to return although the real function was called.
    failed: Option<CK_RV>,
    orders: Arc<Orders>,
    /// Keeps sessions from being closed during the call.
    _sessions_held: RwLockReadGuard<'static, ()>,
}

impl Call {
    /// Counts the call. Delays, hangs or crashes if that is ordered.
    pub(crate) fn begin(function: Function, scope: Scope) -> Self {
        Counter::Calls(function).increment();
        let orders = control::orders();
        let is_in_session = is_in_session(function, scope);
        let (mut ordered, mut failed, mut wrong, mut empty) = (None, None, false, false);
        for active in &orders.active {
            match active.next_action(function, is_in_session) {
                Some(Action::Delay(time)) => thread::sleep(time),
                Some(Action::Hang) => {
                    while control::orders().include(&active.order) {
                        thread::sleep(POLL_INTERVAL);
                    }
                }
                Some(Action::Crash) => std::process::abort(),
                Some(Action::Wrong) => wrong = true,
                Some(Action::Empty) => (wrong, empty) = (true, true),
                Some(Action::Skip) if ordered.is_none() => ordered = Some(CKR_OK),
                Some(Action::Fail(code)) if ordered.is_none() => {
                    Counter::Failed(function).increment();
                    // The caller of these functions gives up the handle and cannot call again. So the session is closed
                    // in any case, or it would leak through no fault of the caller.
                    let closes = matches!(function.name(), "C_CloseSession" | "C_CloseAllSessions");
                    *(if closes { &mut failed } else { &mut ordered }) = Some(code);
                }
                Some(Action::Skip | Action::Fail(_)) | None => {}
            }
        }
        let refused = absence_code(function, scope, &orders).or(ordered);
        Self {
            function,
            mechanism: None,
            refused,
            wrong,
            empty,
            failed,
            orders,
            _sessions_held: live_objects::hold_sessions(),
        }
    }

    /// The code to return without calling the real function.
    pub(crate) fn refused(&self) -> Option<CK_RV> {
        self.refused
    }

    /// Whether to return a wrong result.
    pub(crate) fn is_wrong(&self) -> bool {
        self.refused.is_none() && self.wrong
    }

    /// Whether a wrong result is an object with an empty value.
    pub(crate) fn is_empty(&self) -> bool {
        self.empty
    }

    /// Refuses the call if that is ordered for this public key.
    pub(crate) fn refuse_point(&mut self, point: &[u8]) {
        let code = |order: &Order| match order {
            Order::RefusePoint(refused, code) if refused == point => Some(*code),
            _ => None,
        };
        if let Some(code) = self.orders.active.iter().find_map(|active| code(&active.order)) {
            Counter::Failed(self.function).increment();
            self.refused.get_or_insert(code);
        }
    }

    /// Whether the token is removed.
    pub(crate) fn is_gone(&self) -> bool {
        self.orders.include(&Order::Gone)
    }

    /// Whether the token's objects are lost to this process.
    pub(crate) fn is_dead(&self) -> bool {
        control::is_dead(&self.orders)
    }

    /// The mechanisms to claim.
    pub(crate) fn claims(&self) -> Vec<CK_MECHANISM_TYPE> {
        let claim = |order: &Order| if let Order::Claim(mechanism) = order { Some(*mechanism) } else { None };
        self.orders.active.iter().filter_map(|active| claim(&active.order)).collect()
    }

    /// Writes the call to the trace. Returns the code to return.
    pub(crate) fn end(self, code: CK_RV) -> CK_RV {
        let code = self.failed.filter(|_| code == CKR_OK).unwrap_or(code);
        let recode = |order: &Order| match order {
            Order::Recode(function, other) if *function == self.function && code != CKR_OK => Some(*other),
            _ => None,
        };
        let code = self.orders.active.iter().find_map(|active| recode(&active.order)).unwrap_or(code);
        control::trace(|| {
            let mechanism = self.mechanism.map_or_else(|| "-".to_owned(), |mechanism| format!("{mechanism:#x}"));
            format!("{} {mechanism} {code:#x}\n", self.function.name())
        });
        code
    }
}

/// Whether `*` includes this call.
fn is_in_session(function: Function, scope: Scope) -> bool {
    const OPEN: Function = Function::named("C_OpenSession");
    match scope {
        Scope::Session(_) => !matches!(function.name(), "C_InitPIN" | "C_SetPIN"),
        Scope::Slot => function == OPEN,
        Scope::Module => false,
    }
}

/// The code for a call to a token that is removed, was removed, or is dead, and for every call to a module that
/// is stuck.
fn absence_code(function: Function, scope: Scope, orders: &Orders) -> Option<CK_RV> {
    if function.name() != "C_Initialize"
        && let Some(code) = control::stuck_code(orders)
    {
        return Some(code);
    }
    if orders.include(&Order::Gone) {
        live_objects::lose_sessions();
        return match scope {
            Scope::Module => None,
            Scope::Slot if function.name() == "C_GetSlotInfo" => None,
            Scope::Slot => Some(CKR_TOKEN_NOT_PRESENT),
            Scope::Session(_) => Some(CKR_DEVICE_REMOVED),
        };
    }
    if let Scope::Session(session) = scope
        && live_objects::is_lost(session)
    {
        return Some(CKR_SESSION_HANDLE_INVALID);
    }
    if !control::is_dead(orders) {
        return None;
    }
    // The behaviour of SoftHSM 2.6.1.
    match function.name() {
        "C_GetTokenInfo" | "C_Login" => Some(CKR_GENERAL_ERROR),
        "C_SignInit"
        | "C_DecryptInit"
        | "C_DeriveKey"
        | "C_GetAttributeValue"
        | "C_SetAttributeValue"
        | "C_GetObjectSize"
        | "C_CopyObject" => Some(CKR_OBJECT_HANDLE_INVALID),
        _ => None,
    }
}

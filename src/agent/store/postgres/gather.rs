//! Statements that several requests ask for at the same time, each sent once for all of them.
//!
//! Such a statement has arrays as parameters, `unnest($1::bytea[], $2::int8[])`, and a request adds an element to each. While
//! requests go on without an answer of the server, what they ask for is gathered. When all of them wait, the statements are sent
//! at once, in the order in which they were asked for first. So a batch takes as many statements and round trips as one request.
//! An array has at most 1 MiB: the server keeps what `unnest` returns in its memory.

use std::{
    error::Error as StdError,
    future::{pending, poll_fn},
    mem::take,
    pin::{Pin, pin},
    sync::{Mutex, MutexGuard},
    task::{Poll, ready},
};

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio_postgres::{
    Error, Row,
    types::{IsNull, ToSql, Type, to_sql_checked},
};
use tokio_util::bytes::{BufMut, BytesMut};

use super::{
    errors::store_error,
    parameter::{Parameter, Parameters},
    session::Session,
};
use crate::agent::store::error::StoreError;

/// The size beyond which a statement gets no more elements.
const MAX_SIZE: usize = 1 << 20;

/// What requests have asked for since statements were sent last.
#[derive(Default)]
pub(super) struct Gathered {
    round: Mutex<Round>,
    /// Why a statement has failed whose answer nobody waited for.
    unheard: Mutex<Option<StoreError>>,
}

#[derive(Default)]
struct Round {
    /// How many rounds were sent before.
    sent: u64,
    /// How many of them were executed.
    executed: u64,
    statements: Vec<GatheredStatement>,
    /// Those who wait until a round was executed.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
}

/// A statement with its parameters so far.
struct GatheredStatement {
    sql: &'static str,
    parameters: Vec<Array>,
    rows: i64,
    asked: Vec<Asked>,
}

/// Who waits for what a statement returns: the places of its elements, and where the answer goes.
struct Asked {
    first: i64,
    last: i64,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<Vec<(usize, Row)>, Error>;

/// Takes the elements of a statement.
pub(super) type Add<'a> = dyn FnMut(Parameters<'_>) + 'a;

impl Gathered {
    /// Asks for a statement that returns the place of its elements first, counted from 1. `fill` gives the elements. Returns the
    /// rows for them, each with the number of its elements, counted from 0.
    pub async fn ask(&self, sql: &'static str, fill: impl FnOnce(&mut Add<'_>)) -> Result<Vec<(usize, Row)>, Error> {
        let rows = {
            let mut round = self.lock();
            let statement = round.statement(sql);
            let first = statement.rows + 1;
            fill(&mut |elements| statement.add(elements));
            if statement.rows < first {
                return Ok(Vec::new());
            }
            let (answer, rows) = oneshot::channel();
            statement.asked.push(Asked { first, last: statement.rows, answer });
            rows
        };
        match rows.await {
            Ok(answer) => answer,
            // The statement has failed for all, and one of them got the error. The wave ends.
            Err(_) => pending().await,
        }
    }

    /// Adds to a statement whose answer nobody needs. Returns the number of the round.
    pub fn add(&self, sql: &'static str, elements: Parameters<'_>) -> u64 {
        let mut round = self.lock();
        round.statement(sql).add(elements);
        round.sent + 1
    }

    /// Waits until the statements of a round were executed.
    pub async fn executed(&self, number: u64) {
        let done = {
            let mut round = self.lock();
            if round.executed >= number {
                return;
            }
            let (executed, done) = oneshot::channel();
            round.waiting.push((number, executed));
            done
        };
        if done.await.is_err() {
            pending().await
        }
    }

    fn take(&self) -> Vec<GatheredStatement> {
        let mut round = self.lock();
        let mut statements = take(&mut round.statements);
        statements.retain(|statement| statement.rows > 0);
        round.sent += u64::from(!statements.is_empty());
        statements
    }

    /// Returns why a statement has failed whose answer nobody waited for.
    pub fn unheard_failure(&self) -> Option<StoreError> {
        lock(&self.unheard).take()
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        lock(&self.round)
    }

    /// Carries out work that asks for statements, and sends them whenever nobody can go on. Returns `None` if a statement has
    /// failed before the work was done. `note` hears of each failure, and `has_failed` says whether there was one.
    pub async fn serve<T>(
        &self,
        session: &Session,
        work: impl Future<Output = T>,
        note: impl Fn(&Error) + Sync,
        has_failed: impl Fn() -> bool,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut done = None;
        let mut sent: Option<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = None;
        let note = &note;
        poll_fn(|context| {
            loop {
                if done.is_none()
                    && let Poll::Ready(value) = work.as_mut().poll(context)
                {
                    done = Some(value);
                }
                if let Some(statements) = &mut sent {
                    ready!(statements.as_mut().poll(context));
                    sent = None;
                    if has_failed() {
                        // Whoever got the error notes it.
                        if done.is_none()
                            && let Poll::Ready(value) = work.as_mut().poll(context)
                        {
                            done = Some(value);
                        }
                        self.take();
                        return Poll::Ready(done.take());
                    }
                    continue;
                }
                let statements = self.take();
                if statements.is_empty() {
                    return done.take().map_or(Poll::Pending, |value| Poll::Ready(Some(value)));
                }
                sent = Some(Box::pin(self.send(statements, session, note)));
            }
        })
        .await
    }

    /// Sends statements, and gives their answers to those who asked.
    async fn send(&self, statements: Vec<GatheredStatement>, session: &Session, note: &(impl Fn(&Error) + Sync)) {
        // After the first failure, the others only tell that there was one.
        let unheard = |error| {
            lock(&self.unheard).get_or_insert_with(|| store_error(error));
        };
        // A statement that is prepared first would be overtaken by the next ones.
        for GatheredStatement { sql, .. } in &statements {
            if let Err(error) = session.prepare(sql).await {
                note(&error);
                return unheard(error);
            }
        }
        let execute = statements.into_iter().map(async |statement| {
            let GatheredStatement { sql, parameters, asked, .. } = statement;
            let parameters: Vec<_> = parameters.iter().map(|array| array as &dyn Parameter).collect();
            match session.all(sql, &parameters).await {
                Ok(rows) => answer(rows, asked),
                Err(error) => {
                    note(&error);
                    match asked.into_iter().next() {
                        Some(asked) => drop(asked.answer.send(Err(error))),
                        None => unheard(error),
                    }
                }
            }
        });
        join_all(execute).await;
        let mut round = self.lock();
        round.executed = round.sent;
        let executed = round.executed;
        for (_, waiting) in round.waiting.extract_if(.., |(number, _)| *number <= executed) {
            let _ = waiting.send(());
        }
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Round {
    fn statement(&mut self, sql: &'static str) -> &mut GatheredStatement {
        let open = self.statements.iter().position(|it| it.sql == sql && !it.is_full());
        let place = open.unwrap_or_else(|| {
            self.statements.push(GatheredStatement { sql, parameters: Vec::new(), rows: 0, asked: Vec::new() });
            self.statements.len() - 1
        });
        &mut self.statements[place]
    }
}

/// Gives the rows to those who asked for them.
fn answer(rows: Vec<Row>, asked: Vec<Asked>) {
    let mut answers: Vec<Vec<(usize, Row)>> = asked.iter().map(|_| Vec::new()).collect();
    for row in rows {
        let place: i64 = row.get(0);
        let who = asked.partition_point(|asked| asked.last < place);
        if let (Some(asked), Some(answer)) = (asked.get(who), answers.get_mut(who)) {
            answer.push((usize::try_from(place - asked.first).unwrap_or(usize::MAX), row));
        }
    }
    for (asked, rows) in asked.into_iter().zip(answers) {
        let _ = asked.answer.send(Ok(rows));
    }
}

impl GatheredStatement {
    fn is_full(&self) -> bool {
        self.parameters.iter().map(|array| array.elements.len()).sum::<usize>() > MAX_SIZE
    }

    fn add(&mut self, elements: Parameters<'_>) {
        if self.parameters.is_empty() {
            self.parameters.extend(elements.iter().map(|element| Array::of(*element)));
        }
        for (array, element) in self.parameters.iter_mut().zip(elements) {
            array.push(*element);
        }
        self.rows += 1;
    }
}

/// An array as PostgreSQL takes it.
#[derive(Debug)]
struct Array {
    of: Type,
    sql_type: Type,
    has_null: bool,
    length: i32,
    elements: BytesMut,
}

impl Array {
    fn of(element: &dyn Parameter) -> Self {
        let (of, sql_type) = (element.sql_type(), element.array_type());
        Self { of, sql_type, has_null: false, length: 0, elements: BytesMut::new() }
    }

    fn push(&mut self, element: &dyn Parameter) {
        self.length += 1;
        let start = self.elements.len();
        self.elements.put_i32(-1);
        match element.value().to_sql_checked(&self.of, &mut self.elements) {
            Ok(IsNull::No) => {
                let length = i32::try_from(self.elements.len() - start - 4).unwrap_or(i32::MAX);
                self.elements[start..start + 4].copy_from_slice(&length.to_be_bytes());
            }
            // Numbers, truth values, texts and bytes of these lengths can all be written.
            Ok(IsNull::Yes) | Err(_) => self.has_null = true,
        }
    }
}

impl ToSql for Array {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        // The number of dimensions, whether there is a NULL, the type of the elements, their number, and the first one's.
        out.put_i32(1);
        out.put_i32(i32::from(self.has_null));
        out.put_u32(self.of.oid());
        out.put_i32(self.length);
        out.put_i32(1);
        out.put_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl Parameter for Array {
    fn sql_type(&self) -> Type {
        self.sql_type.clone()
    }

    fn array_type(&self) -> Type {
        self.sql_type.clone()
    }

    fn value(&self) -> &(dyn ToSql + Sync) {
        self
    }
}

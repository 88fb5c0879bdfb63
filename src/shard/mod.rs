//! One thread that owns its connections outright: their sockets, their sessions, and who of them
//! is subscribed to what. Delivering takes no lock and wakes no task: a batch of events is put
//! into the outboxes by reference, then every outbox is written once.
//!
//! What one shard alone must know of a channel or a user, its *home* knows: `home`, `users`.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use slab::Slab;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::auth::Asked;
use crate::inbox::{
    ConnKey, Control, Delivery, Events, Form, Handover, Inbox, Interest, Joiner, NewClient, PresenceChanges, Settings,
};
use crate::protocol::session::{Action, Input, Millis, Session};
use crate::protocol::webhook::Event;
use crate::protocol::{SocketId, pusher};
use crate::publish::Publisher;
use crate::webhook::Webhooks;
use crate::ws::frame::{self, Message};
use channels::{Channels, Slot};
use conn::Conn;
use home::Homes;
use limits::Reached;
use measure::Measure;
use occupancy::Occupancy;
use outbox::Outbox;
use resume::Resume;
use stop::Stopping;

pub use stop::ANSWER_WAIT;
use stop::EndsTheProcess;
use users::Users;

pub mod channels;
mod conn;
mod delivery;
mod ending;
mod home;
mod last_events;
mod limits;
mod measure;
mod misses;
mod occupancy;
mod outbox;
mod polling;
mod query;
pub mod resume;
mod stop;
#[cfg(test)]
pub(crate) mod test;
mod users;
mod watching;

/// Inbox messages that are handled before the outboxes are written.
const BATCH: usize = 256;

/// New connections that are taken in one turn: few, since events wait meanwhile.
const ARRIVALS: usize = 16;

/// How much is read from a socket at once, in bytes; one buffer serves all connections.
const READ_BYTES: usize = 16 * 1024;

/// Reads of one socket before the others' turn.
const READS_MAX: usize = 4;

/// What the clients of an app are told that is no longer in the configuration. They do not come back by themselves, as if
/// they had just been refused.
const APP_REMOVED: &str = "Application does not exist any more";

/// What a shard needs to know of the world.
#[derive(Clone, Debug)]
pub struct Context {
    /// Reaches the other shards.
    pub publisher: Publisher,
    /// Takes questions to Laravel.
    pub asker: mpsc::UnboundedSender<Asked>,
    /// What the configuration says.
    pub settings: Settings,
    /// Told of changed members, where somebody keeps copies of the lists.
    pub presence_changes: Option<PresenceChanges>,
    /// Who is told of what happens on channels.
    pub webhooks: Webhooks,
    /// See `resume`.
    pub resume: Option<resume::Settings>,
    /// See `devMode`: browsers are told cause and cure of a refusal.
    pub explains: bool,
}

/// Starts the thread of the shard with this index. It ends after [`Control::Stop`].
pub fn spawn(index: usize, inbox: Inbox, context: Context) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name(format!("shard-{index}")).spawn(move || {
        let tasks = tokio::task::LocalSet::new();
        runtime.block_on(tasks.run_until(run(index, inbox, context)));
    })
}

/// A shard's loop, for a [`tokio::task::LocalSet`]. It ends after [`Control::Stop`].
pub async fn run(index: usize, inbox: Inbox, context: Context) {
    let _guard = EndsTheProcess(index);
    let Inbox { mut arrivals, mut control, events, interest, connections } = inbox;
    let shard = Rc::new_cyclic(|this| {
        RefCell::new(Shard::new(index, context, events.clone(), interest, connections, this.clone()))
    });
    let mut arrived = Vec::with_capacity(ARRIVALS);
    let mut said = Vec::with_capacity(BATCH);
    let mut deliveries = Vec::with_capacity(BATCH);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ask = tokio::time::interval(resume::ASK_EVERY);
    ask.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let resumes = shard.borrow().resume.is_some();
    let mut is_stopping = false;
    loop {
        tokio::select! {
            _ = control.recv_many(&mut said, BATCH) => {}
            () = events.ready() => {}
            _ = arrivals.recv_many(&mut arrived, ARRIVALS) => {}
            _ = tick.tick() => shard.borrow_mut().tick(),
            _ = ask.tick(), if resumes => shard.borrow_mut().ask_around(),
            () = tokio::time::sleep(stop::STEP), if is_stopping => {}
        }
        // What shards say comes before events: a join that others have heard of is done by then.
        while said.len() < BATCH
            && let Ok(message) = control.try_recv()
        {
            said.push(message);
        }
        if said.len() < BATCH {
            events.take(BATCH, &mut deliveries);
        }
        is_stopping |= said.iter().any(|message| matches!(message, Control::Stop(_)));
        shard.borrow_mut().turn(&mut arrived, &mut said, &mut deliveries);
        if is_stopping && shard.borrow().is_done() && arrivals.is_empty() {
            return;
        }
        // Connections' tasks have their turn before the next batch.
        tokio::task::yield_now().await;
    }
}

/// A shard's state. Borrowed by its own thread's tasks in turn, never across an await.
pub struct Shard {
    index: usize,
    context: Context,
    events: Arc<Events>,
    interest: Arc<Interest>,
    connections: Arc<AtomicUsize>,
    this: Weak<RefCell<Shard>>,
    started: Instant,
    conns: Slab<Conn>,
    generation: u32,
    channels: Channels,
    homes: Homes,
    occupancy: Occupancy,
    users: Users,
    resume: Option<Resume>,
    /// Socket.IO sessions that began with polling.
    polled: HashMap<SocketId, Slot>,
    /// Those with something in their outbox since the last flush.
    dirty: Vec<Slot>,
    /// Those that are to be asked how far they have got; see [`Conn::has_news`].
    news: VecDeque<Slot>,
    relayed: Vec<Delivery>,
    measure: Measure,
    read_buffer: Vec<u8>,
    reached: Reached,
    stopping: Option<Stopping>,
}

impl Shard {
    fn new(
        index: usize,
        context: Context,
        events: Arc<Events>,
        interest: Arc<Interest>,
        connections: Arc<AtomicUsize>,
        this: Weak<RefCell<Shard>>,
    ) -> Self {
        let (homes, occupancy) = (Homes::new(&context), Occupancy::new(&context));
        let resume = context.resume.as_ref().map(Resume::new);
        let channels = Channels::new(context.resume.as_ref().map(resume::Settings::log));
        let measure = Measure::new(context.publisher.metrics(), index);
        Self {
            index,
            context,
            events,
            interest,
            connections,
            this,
            started: Instant::now(),
            conns: Slab::new(),
            generation: 0,
            channels,
            homes,
            occupancy,
            users: Users::default(),
            resume,
            polled: HashMap::new(),
            dirty: Vec::new(),
            news: VecDeque::new(),
            relayed: Vec::new(),
            measure,
            read_buffer: vec![0; READ_BYTES],
            reached: Reached::default(),
            stopping: None,
        }
    }

    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    /// Whether there are events to deliver.
    fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Handles a batch of each queue, then writes what came of it.
    fn turn(&mut self, arrived: &mut Vec<Handover>, said: &mut Vec<Control>, deliveries: &mut Vec<Delivery>) {
        // Before the joins: what was published before somebody asked to join is the last event then.
        self.relay_published(deliveries);
        for message in said.drain(..) {
            // Deliveries are kept together, so that a burst of client events goes out in one write.
            if !matches!(message, Control::Deliver(_) | Control::Relayed(..)) {
                self.deliver_relayed();
            }
            self.control(message);
        }
        self.deliver_relayed();
        self.deliver(deliveries);
        arrived.drain(..).for_each(|handover| self.accept(handover));
        self.close_due();
        self.flush();
        self.measure.written();
        self.tell_homes_of_changes();
    }

    fn control(&mut self, message: Control) {
        match message {
            Control::Poll(request) => self.poll(*request),
            Control::PollGone { sid, number } => self.poll_gone(sid, number),
            Control::Deliver(delivery) | Control::Relayed(delivery, _) => self.relayed.push(delivery),
            Control::Answered { conn, ticket, answer } => self.input(conn, Input::Answered(ticket, answer)),
            Control::Joined { conn, ticket, outcome } => self.input(conn, Input::Joined(ticket, outcome)),
            Control::Join { app, channel, member, joiner } => self.join(app, channel, member, joiner),
            Control::List { app, channel, joiner } => self.list(app, &channel, joiner),
            Control::Leave { app, channel, user_id, socket_id } => self.leave(app, channel, &user_id, socket_id),
            Control::Elsewhere { app, channel, node, changes } => self.changed_elsewhere(app, channel, node, changes),
            Control::Missed { since, until } => self.tell_of_gap(since, until),
            Control::Coming(coming) => self.expect(coming),
            Control::Unheard(heard) => self.unheard(heard),
            Control::PassOn(delivery, _under_way) => self.pass_on(&delivery),
            Control::Occupancy { app, channel, more } => self.occupancy_changed(app, channel, more),
            Control::SubscribersElsewhere { app, channel, node, count } => {
                self.occupancy_elsewhere(app, channel, node, count);
            }
            Control::User { app, user_id, from, change } => self.user_changed(app, user_id, from, change),
            Control::UserStatus { app, user_id, is_online } => self.user_status(app, user_id, is_online),
            Control::Query { app, query, reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(self.found(app, &query));
            }
            Control::Terminate { app, user_id } => self.terminate(app, &user_id),
            Control::PresenceLists { all, answer } => {
                let _ = answer.send(self.homes.take_lists(all));
            }
            Control::Settings(settings, done) => {
                self.change(*settings);
                let _ = done.send(());
            }
            Control::Stop(within) => self.stop(within),
        }
    }

    /// Goes by other settings from now on.
    fn change(&mut self, settings: Settings) {
        let closed = |app: usize| settings.removed[app] && !self.context.settings.removed[app];
        let conns = self.conns.iter().filter(|(_, conn)| closed(usize::from(conn.app.0)));
        let conns: Vec<(Slot, Form)> = conns.map(|(slot, conn)| (slot as Slot, conn.form)).collect();
        // By the rules that they were opened with.
        for (slot, form) in conns {
            if form != Form::SocketIo {
                self.send(slot, frame::encode_text(&pusher::error(Some(4001), APP_REMOVED)));
            }
            self.close(slot, 4001, APP_REMOVED);
        }
        self.context.settings = settings;
        self.homes.change(&self.context.settings);
        self.count_what_was_not();
    }

    // --- connections -----------------------------------------------------------------------

    fn accept(&mut self, handover: Handover) {
        let Handover { stream, tls, leftover, client } = handover;
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => Rc::new(stream),
            Err(error) => {
                tracing::warn!("a new connection was dropped: {error}");
                self.connections.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        };
        let key = self.open(Some(stream.clone()), tls, client);
        if !leftover.is_empty() {
            self.received(key, &mut leftover.to_vec());
        }
        // TLS may hold more than the handshake already, which no readiness will tell of.
        if self.read(key) {
            spawn_local(conn::read(self.this.clone(), key, stream));
        }
    }

    /// Enters a new connection, and says hello.
    fn open(
        &mut self,
        stream: Option<Rc<TcpStream>>,
        tls: Option<Box<rustls::ServerConnection>>,
        client: NewClient,
    ) -> ConnKey {
        let NewClient { app, socket_id, credentials, counted, form, inflates, socketio, browser } = client;
        self.generation = self.generation.wrapping_add(1);
        let mut actions = Vec::new();
        let session =
            Session::open(socket_id, &self.context.settings.rules[usize::from(app.0)], self.now(), &mut actions);
        let socketio = socketio.map(|what| {
            actions.clear();
            Box::new(self.socketio(what, &mut actions))
        });
        let slot = self.conns.insert(Conn {
            generation: self.generation,
            app,
            socket_id,
            stream,
            tls,
            session,
            form,
            has_news: false,
            socketio,
            browser: None,
            decoder: frame::Decoder::new(inflates),
            outbox: Outbox::default(),
            credentials,
            dirty: false,
            draining: false,
            closing: None,
            _counted: counted,
        }) as Slot;
        self.measure.opened(&self.conns[slot as usize]);
        tracing::debug!("{socket_id} connected");
        self.tell_of_connection(app, socket_id, form);
        self.act(slot, actions);
        if self.context.settings.removed[usize::from(app.0)] {
            // It was let in just before its app was taken out of the configuration.
            self.close(slot, 4001, APP_REMOVED);
        }
        if self.stopping.is_some() {
            self.close(slot, 1012, "The server is restarting");
        }
        let key = ConnKey { slot, generation: self.generation };
        if let Some(browser) = browser {
            self.arrived(key, &browser);
        }
        key
    }

    fn conn(&mut self, key: ConnKey) -> Option<&mut Conn> {
        self.conns.get_mut(key.slot as usize).filter(|conn| conn.generation == key.generation)
    }

    /// Reads what the socket has; false when the connection is no more.
    fn read(&mut self, key: ConnKey) -> bool {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        // A socket that goes on and on has its next turn after the others.
        for _ in 0..READS_MAX {
            let Some(conn) = self.conn(key) else { break };
            match conn.read(&mut buffer) {
                Ok(0) => self.remove(key.slot, "transport close"),
                Ok(bytes) => self.received(key, &mut buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // TLS may have something to say to what it read.
                    if self.conn(key).is_some_and(|conn| conn.tls.as_ref().is_some_and(|tls| tls.wants_write())) {
                        self.touch(key.slot);
                    }
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.remove(key.slot, "transport error"),
            }
        }
        self.read_buffer = buffer;
        self.flush();
        self.tell_homes_of_changes();
        self.conn(key).is_some()
    }

    fn received(&mut self, key: ConnKey, bytes: &mut [u8]) {
        let limit = self.context.settings.message_bytes_max;
        let Some(conn) = self.conn(key) else { return };
        if conn.closing.is_some_and(|closing| closing.deaf) {
            return;
        }
        let mut decoder = std::mem::take(&mut conn.decoder);
        let result = decoder.feed(bytes, limit, |message| {
            self.message(key, message.text_if_it_is_one());
            self.conn(key).is_some()
        });
        if let Some(conn) = self.conn(key) {
            conn.decoder = decoder;
        }
        if let Err(violation) = result {
            self.violated(&violation);
            self.close(key.slot, violation.code(), &violation.to_string());
            if let Some(closing) = self.conn(key).and_then(|conn| conn.closing.as_mut()) {
                closing.deaf = true;
            }
        }
        self.take_over(key);
    }

    fn message(&mut self, key: ConnKey, message: Message<'_>) {
        let Some(conn) = self.conn(key) else { return };
        match message {
            Message::Close(code) => {
                // Without a code none is answered; 1000 is what an empty close frame would mean.
                self.close(key.slot, code.unwrap_or(1000), "");
                if let Some(closing) = self.conn(key).and_then(|conn| conn.closing.as_mut()) {
                    closing.heard = true;
                }
                self.touch(key.slot);
            }
            _ if conn.closing.is_some() => {}
            Message::Text(text) if conn.is_probe() => self.probe(key, &text),
            Message::Text(text) => {
                let app = conn.app.into();
                self.measure.messages_received.add(app);
                if !self.holds_back(key, &text) {
                    self.input(key, Input::Text(&text));
                }
            }
            Message::Ping(payload) => {
                conn.outbox.push(frame::encode_pong(payload));
                self.touch(key.slot);
                self.input(key, Input::SignOfLife);
            }
            Message::Pong(payload) => {
                self.answered_ping(key, payload);
                self.input(key, Input::SignOfLife);
            }
            Message::Binary(_) => self.input(key, Input::SignOfLife),
        }
    }

    /// Gives the session what happened and does what it says.
    fn input(&mut self, key: ConnKey, input: Input<'_>) {
        let now = self.now();
        let Some(conn) = self.conns.get_mut(key.slot as usize) else { return };
        if conn.generation != key.generation || conn.closing.is_some() {
            return;
        }
        let mut actions = Vec::new();
        conn.input(input, &self.context.settings.rules[usize::from(conn.app.0)], now, &mut actions);
        self.act(key.slot, actions);
    }

    fn act(&mut self, slot: Slot, actions: Vec<Action>) {
        let mut actions = actions.into_iter().peekable();
        let mut welcome = None;
        while let Some(action) = actions.next() {
            let Some(conn) = self.conns.get_mut(slot as usize) else { return };
            let (app, socket_id, is_socketio) = (conn.app, conn.socket_id, conn.form == Form::SocketIo);
            let key = ConnKey { slot, generation: conn.generation };
            match action {
                Action::Send(text) => self.send(slot, frame::encode_text(&text)),
                Action::SendFrame(frame) => match actions.peek() {
                    Some(Action::Subscribe(channel)) if channel.is_cache() => welcome = Some(frame),
                    _ => self.send(slot, frame),
                },
                Action::Subscribe(channel) => {
                    self.enter(slot, app, &channel, welcome.take());
                    self.tell_of_subscription(app, socket_id, &channel);
                    tracing::debug!("{socket_id} joined channel: {channel}");
                }
                Action::Unsubscribe(channel) => {
                    let last = self.channels.unsubscribe(app, &channel, slot) == channels::Change::Edge;
                    let last = last.then(|| self.context.publisher.hash(app, channel.as_str()));
                    last.inspect(|hash| self.interest.remove(*hash));
                    self.measure.unsubscribed(app, &channel, last);
                    self.occupancy.count(app, &channel, -1);
                    self.tell_of_unsubscription(app, socket_id, &channel);
                    tracing::debug!("{socket_id} left channel: {channel}");
                }
                Action::Ask { ticket, channel, headers } => {
                    let (shard, credentials) = (self.index, Arc::downgrade(&conn.credentials));
                    let asked = Asked { shard, conn: key, ticket, channel, socket_id, credentials, headers };
                    let _ = self.context.asker.send(asked);
                }
                Action::Join { ticket, channel, member } => {
                    // From now on, and not only from the answer: what others send to a member that
                    // the home has just announced comes after that answer, and must not pass us by.
                    self.interest.add(self.context.publisher.hash(app, channel.as_str()));
                    let joiner = Joiner { shard: self.index, conn: key, ticket, socket_id, is_socketio };
                    let home = self.context.publisher.home(app, channel.as_str());
                    home.tell(Control::Join { app, channel, member, joiner });
                }
                Action::List { ticket, channel } => {
                    let joiner = Joiner { shard: self.index, conn: key, ticket, socket_id, is_socketio };
                    let home = self.context.publisher.home(app, channel.as_str());
                    home.tell(Control::List { app, channel, joiner });
                }
                Action::Leave { channel, user_id } => {
                    self.interest.remove(self.context.publisher.hash(app, channel.as_str()));
                    // Of a cache channel's subscribers the home keeps no account.
                    if let Some(user_id) = user_id {
                        let home = self.context.publisher.home(app, channel.as_str());
                        home.tell(Control::Leave { app, channel, user_id, socket_id });
                    }
                }
                Action::SignIn { user_id, watchlist } => {
                    tracing::debug!("{socket_id} signed in as {user_id:?}");
                    self.sign_in(app, user_id, watchlist, key);
                }
                Action::SignOut { user_id } => self.sign_out(app, &user_id, key),
                Action::Whisper { channel, event, data, user_id } => {
                    let (data, user_id) = (data.as_deref(), user_id.as_deref());
                    self.whisper(app, &channel, Event::ClientEvent { event: &event, data, socket_id, user_id });
                }
                Action::SubscriptionError { channel, kind, refusal } => {
                    self.refuse_subscription(slot, app, &channel, kind, &refusal);
                }
                Action::Limited(limit) => self.limited(socket_id, limit),
                Action::Refused { channel, error } => self.tell_of_refusal(app, socket_id, Some(channel), &error),
                Action::SigninRefused { error } => self.tell_of_refusal(app, socket_id, None, &error),
                Action::Close { code, reason } => self.close(slot, code, reason),
            }
        }
    }

    fn send(&mut self, slot: Slot, frame: Bytes) {
        if let Some(conn) = self.conns.get_mut(slot as usize) {
            conn.outbox.push(frame);
            self.touch(slot);
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        for slot in 0..self.conns.capacity() {
            let Some(conn) = self.conns.get(slot) else { continue };
            match conn.closing {
                Some(closing) if now >= closing.until => self.remove(slot as Slot, "no answer to the close frame"),
                Some(_) => {}
                None if conn.is_given_up(now) => self.remove(slot as Slot, "the client did not go on"),
                None if conn.is_due(&self.context.settings.rules[usize::from(conn.app.0)], now) => {
                    self.input(ConnKey { slot: slot as Slot, generation: conn.generation }, Input::Tick);
                }
                None => {}
            }
        }
        self.measure_each_second();
        self.homes.expire(now);
        self.tell_late_counts(now);
        self.tell_watchers_of_changes();
        self.tick_resume();
        self.flush();
    }
}

//! The processes: joiners and trainers, each with a network of its own, and who starts them again.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crate::schedule::{Fault, Target};
use crate::support::{Cluster, Easq, Line};

/// A drain may take its whole deadline when the brokers are away.
const DRAIN: Duration = Duration::from_secs(60);

/// What [`Post::ended`] tells of a process that SIGTERM has ended.
const SIGTERM: i32 = -15;

/// The place of one process; who is killed there is followed by another one.
struct Post {
    target: Target,
    door: usize,
    line: Line,
    arguments: [&'static str; 3],
    process: Option<Easq>,
    /// Why it is not running though nothing has failed: killed or left by the schedule.
    is_down: bool,
    /// Asked to leave, and since when.
    leaving: Option<Instant>,
}

pub struct Fleet<'a> {
    cluster: &'a Cluster,
    posts: Vec<Post>,
    summary: Summary,
    /// Nobody is hurt any more.
    is_over: bool,
}

/// What the processes came to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Processes that ended with exit code 3 and were started again.
    pub fenced: usize,
    /// Drains that met their deadline, since the brokers took nothing: exit code 4.
    pub cut_short: usize,
    /// Processes that ended as none may, with their last words.
    pub failures: Vec<String>,
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} fenced\n{}", self.fenced, self.failures.join("\n"))
    }
}

impl<'a> Fleet<'a> {
    /// One door of the cluster for each: joiners first.
    pub fn new(cluster: &'a Cluster, line: &Line, joiners: usize, trainers: usize) -> Self {
        let joiner = |number: usize| {
            // Half of them are static members, half dynamic ones.
            let id = if number.is_multiple_of(2) { format!("joiner-{number}") } else { "dynamic".to_owned() };
            (Target::Joiner(number), ["run", "--role", "joiner"], line.clone().set("joiner.instance_id", id))
        };
        let trainer = |number| (Target::Trainer(number), ["run", "--role", "trainer"], line.clone());
        let all = (0..joiners).map(joiner).chain((0..trainers).map(trainer));
        let post = |(door, (target, arguments, line)): (usize, (Target, [&'static str; 3], Line))| {
            let line = line.set("kafka.bootstrap_servers", cluster.door(door));
            Post { target, door, line, arguments, process: None, is_down: false, leaving: None }
        };
        let posts = all.enumerate().map(post).collect();
        let mut fleet = Self { cluster, posts, summary: Summary::default(), is_over: false };
        fleet.posts.iter_mut().for_each(Post::start);
        fleet
    }

    pub fn summary(&self) -> Summary {
        self.summary.clone()
    }

    /// False when there is nobody to be hurt at the moment.
    pub fn hurt(&mut self, target: Target, fault: Fault) -> bool {
        // How it has ended by itself, if it has, is not to be covered up.
        self.look_after();
        let cluster = self.cluster;
        let post = self.post(target);
        let is_running = post.process.as_mut().is_some_and(Easq::is_running) && post.leaving.is_none();
        match fault {
            _ if !is_running => {}
            Fault::Cut => cluster.cut(post.door),
            Fault::Refuse => cluster.refuse(post.door),
            Fault::Kill => {
                post.process.take().iter_mut().for_each(Easq::kill);
                post.is_down = true;
            }
            Fault::Freeze => post.signal("STOP"),
            Fault::Leave => {
                post.signal("TERM");
                (post.is_down, post.leaving) = (true, Some(Instant::now()));
            }
        }
        is_running
    }

    pub fn mend(&mut self, target: Target, fault: Fault) {
        let cluster = self.cluster;
        let post = self.post(target);
        match fault {
            Fault::Cut | Fault::Refuse => cluster.mend(post.door),
            Fault::Freeze => post.signal("CONT"),
            Fault::Kill | Fault::Leave => post.is_down = false,
        }
    }

    fn post(&mut self, target: Target) -> &mut Post {
        self.posts.iter_mut().find(|post| post.target == target).expect("a post of the crew")
    }

    /// Looks after everybody: who is missing is started, unless the schedule wants it to be down.
    pub fn look_after(&mut self) {
        for post in &mut self.posts {
            match post.ended() {
                None => {}
                // A process that had only just begun.
                Some(SIGTERM) if post.leaving.take().is_some() => post.process = None,
                Some(3) => self.summary.fenced += 1,
                Some(0) if post.leaving.take().is_some() => {}
                Some(4) if !self.is_over && post.leaving.take().is_some() => self.summary.cut_short += 1,
                Some(code) => {
                    self.summary.failures.push(post.last_words(&format!("ended with exit code {code}")))
                }
            }
            if post.leaving.is_some_and(|since| since.elapsed() > DRAIN) {
                self.summary.failures.push(post.last_words("did not leave"));
                post.process.take().iter_mut().for_each(Easq::kill);
                post.leaving = None;
            }
            if post.process.as_mut().is_none_or(|process| !process.is_running()) && !post.is_down {
                post.start();
            }
        }
    }

    /// SIGTERM to all; true once all have ended as they should.
    pub fn dismiss(&mut self) -> bool {
        self.is_over = true;
        for post in &mut self.posts {
            post.is_down = true;
            if post.leaving.is_none() && post.process.as_mut().is_some_and(Easq::is_running) {
                post.signal("TERM");
                post.leaving = Some(Instant::now());
            }
        }
        self.look_after();
        self.posts.iter_mut().all(|post| post.process.as_mut().is_none_or(|process| !process.is_running()))
    }
}

impl Post {
    fn start(&mut self) {
        self.process = Some(self.line.start(&self.arguments));
        self.leaving = None;
    }

    fn signal(&mut self, name: &str) {
        if let Some(process) = &mut self.process
            && process.is_running()
        {
            process.signal(name);
        }
    }

    /// The exit code, or minus the signal, of a process that has ended by itself since the last look.
    fn ended(&mut self) -> Option<i32> {
        let process = self.process.as_mut()?;
        if process.is_running() {
            return None;
        }
        let status = process.wait(DRAIN);
        let code = status.code().or(status.signal().map(|signal| -signal)).expect("a code or a signal");
        if matches!(code, 0 | 3) {
            self.process = None;
        }
        Some(code)
    }

    fn last_words(&mut self, what: &str) -> String {
        let output = self.process.take().map(|process| process.output()).unwrap_or_default();
        let lines: Vec<&str> = output.lines().collect();
        let last = &lines[lines.len().saturating_sub(15)..];
        format!("{:?} {what}:\n    {}", self.target, last.join("\n    "))
    }
}

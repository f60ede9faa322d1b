use super::*;
use std::convert::Infallible;
use std::sync::mpsc;

const LONG: Duration = Duration::from_secs(60);

fn until_stopped(stop: StopToken) -> Result<(), Infallible> {
    while !stop.wait(LONG) {}
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("the disk is full")]
struct DiskFull;

#[tokio::test]
async fn the_first_failure_stops_the_others_and_is_reported_with_its_type() {
    let mut supervisor = Supervisor::new(LONG);
    supervisor.thread("reader", Stage::Work, Kind::Service, until_stopped).unwrap();
    supervisor.thread("writer", Stage::Work, Kind::Service, |_| Err::<(), _>(DiskFull)).unwrap();
    let error = supervisor.join().await.unwrap_err();
    let SuperviseError::Failed { task, source } = &error else { panic!("{error}") };
    assert_eq!(task, "writer");
    assert!(source.downcast_ref::<DiskFull>().is_some());
}

#[tokio::test]
async fn a_panic_of_a_thread_is_an_error_that_names_it() {
    let mut supervisor = Supervisor::new(LONG);
    supervisor
        .thread("joiner", Stage::Work, Kind::Service, |_| -> Result<(), Infallible> {
            panic!("offset {} is negative", -1)
        })
        .unwrap();
    assert_eq!(supervisor.join().await.unwrap_err().to_string(), "joiner panicked: offset -1 is negative");
}

#[tokio::test]
async fn a_panic_of_a_task_is_an_error_that_names_it() {
    let mut supervisor = Supervisor::new(LONG);
    supervisor.task("http", Stage::Endpoints, Kind::Service, |_| async {
        if true {
            panic!("no route");
        }
        Ok::<(), Infallible>(())
    });
    assert_eq!(supervisor.join().await.unwrap_err().to_string(), "http panicked: no route");
}

#[tokio::test]
async fn a_service_that_ends_by_itself_is_an_error() {
    let mut supervisor = Supervisor::new(LONG);
    supervisor.thread("trainer", Stage::Work, Kind::Service, |_| Ok::<(), Infallible>(())).unwrap();
    assert!(
        matches!(supervisor.join().await.unwrap_err(), SuperviseError::EndedEarly { task } if task == "trainer")
    );
}

#[tokio::test]
async fn a_job_that_is_done_ends_the_group_without_an_error() {
    let mut supervisor = Supervisor::new(LONG);
    supervisor.thread("endpoint", Stage::Endpoints, Kind::Service, until_stopped).unwrap();
    supervisor.thread("simulate", Stage::Work, Kind::Job, |_| Ok::<(), Infallible>(())).unwrap();
    supervisor.join().await.unwrap();
}

#[tokio::test]
async fn the_endpoints_are_stopped_after_the_work_has_ended() {
    let (sender, endpoint_stop) = mpsc::channel::<StopToken>();
    let (seen, endpoint_was_stopped) = mpsc::channel();
    let mut supervisor = Supervisor::new(LONG);
    supervisor
        .thread("endpoint", Stage::Endpoints, Kind::Service, move |stop| {
            sender.send(stop.clone()).unwrap();
            until_stopped(stop)
        })
        .unwrap();
    supervisor
        .thread("work", Stage::Work, Kind::Service, move |stop| {
            let endpoint_stop = endpoint_stop.recv().unwrap();
            until_stopped(stop)?;
            // Long enough for a stop that is not held back to arrive.
            seen.send(endpoint_stop.wait(Duration::from_millis(100))).unwrap();
            Ok::<(), Infallible>(())
        })
        .unwrap();
    supervisor.stop_token().stop();
    supervisor.join().await.unwrap();
    assert!(!endpoint_was_stopped.recv().unwrap());
}

#[tokio::test]
async fn what_outlives_the_drain_deadline_is_named() {
    let (_never, hang) = mpsc::channel::<()>();
    // Long enough for the others to end on a busy machine.
    let mut supervisor = Supervisor::new(Duration::from_secs(2));
    supervisor.thread("good", Stage::Work, Kind::Service, until_stopped).unwrap();
    supervisor
        .thread("stuck", Stage::Work, Kind::Service, move |_| {
            let _ = hang.recv();
            Ok::<(), Infallible>(())
        })
        .unwrap();
    supervisor.stop_token().stop();
    let error = supervisor.join().await.unwrap_err();
    assert!(error.is_undrained());
    let SuperviseError::DrainDeadline { tasks, .. } = error else { panic!("{error}") };
    assert_eq!(tasks, ["stuck"]);
}

#[tokio::test]
async fn a_failure_while_draining_is_reported() {
    let mut supervisor = Supervisor::new(LONG);
    supervisor
        .thread("publisher", Stage::Work, Kind::Service, |stop| {
            let Ok(()) = until_stopped(stop);
            Err::<(), _>(DiskFull)
        })
        .unwrap();
    supervisor.stop_token().stop();
    assert!(matches!(supervisor.join().await.unwrap_err(), SuperviseError::Failed { .. }));
}

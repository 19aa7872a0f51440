//! Who gets what of a paid body, and when.

use std::collections::VecDeque;
use std::convert::Infallible;

use super::*;
use crate::clock::Clock;
use http_body_util::BodyExt;

const LONG: Duration = Duration::from_secs(20);

/// An upstream's body: these pieces, then nothing more or its end.
struct Pieces(VecDeque<&'static str>, bool);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match (self.0.pop_front(), self.1) {
            (Some(piece), _) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
            (None, true) => Poll::Ready(None),
            (None, false) => Poll::Pending,
        }
    }
}

type Parts = (ModelStream<Pieces>, Relaying<Pieces>, oneshot::Sender<End>);

/// A response of `first` and these pieces, which ends or goes on.
fn relay(pieces: &[&'static str], ends: bool, patience: Duration) -> Parts {
    let answer = Answer::text(Pieces(pieces.iter().copied().collect(), ends));
    let timings = Arc::new(RequestTimings::start(&Clock::default()));
    let patience = Patience::start(patience, LONG);
    ModelStream::relay("first".into(), answer, patience, timings)
}

async fn next(stream: &mut ModelStream<Pieces>) -> Option<Result<Bytes, Aborted>> {
    let frame = stream.frame().await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

#[tokio::test]
async fn what_is_ready_is_one_piece_and_the_end_is_what_the_owner_gives() {
    let (mut body, relaying, end) = relay(&["a", "b"], true, LONG);
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "first");
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "ab");
    let waits = is_pending(&mut body).await;
    assert!(waits, "nothing follows before the owner gives it");
    let (_, relayed) = relaying.ended(LONG).await.unwrap();
    assert!(matches!(relayed, Relayed::Whole), "{relayed:?}");
    end.send(End::Whole("end".into())).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "end");
    assert!(body.is_end_stream());
    assert!(next(&mut body).await.is_none());
}

async fn is_pending(body: &mut ModelStream<Pieces>) -> bool {
    std::future::poll_fn(|context| {
        Poll::Ready(Pin::new(&mut *body).poll_frame(context).is_pending())
    })
    .await
}

#[tokio::test]
async fn a_body_whose_first_piece_was_not_taken_in_time_yields_nothing() {
    let (mut body, relaying, end) = relay(&["a"], true, LONG);
    assert!(relaying.ended(Duration::ZERO).await.is_none());
    assert!(is_pending(&mut body).await);
    drop(end);
    assert!(matches!(next(&mut body).await, Some(Err(Aborted))));
    assert!(next(&mut body).await.is_none());
}

#[tokio::test]
async fn a_body_dropped_before_its_first_piece_is_not_paid_and_one_dropped_after_it_is() {
    let (body, relaying, _end) = relay(&["a"], false, LONG);
    drop(body);
    assert!(relaying.ended(LONG).await.is_none());
    let (mut body, relaying, _end) = relay(&["a"], false, LONG);
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "first");
    drop(body);
    let (_, relayed) = relaying.ended(LONG).await.unwrap();
    assert!(matches!(relayed, Relayed::ClientLeft), "{relayed:?}");
}

#[tokio::test]
async fn an_upstream_that_sends_nothing_more_is_broken_and_the_client_reads_the_error() {
    let (mut body, relaying, end) = relay(&["a"], false, Duration::from_millis(5));
    let owner = async {
        let (_, relayed) = relaying.ended(LONG).await.unwrap();
        let error = UpstreamError::Timeout("the next event");
        assert!(matches!(relayed, Relayed::Broken(late) if late == error));
        end.send(End::Broken("error".into())).unwrap();
    };
    let client = async {
        for piece in ["first", "a", "error"] {
            assert_eq!(next(&mut body).await.unwrap().unwrap(), piece);
        }
        assert!(matches!(next(&mut body).await, Some(Err(Aborted))));
        assert!(next(&mut body).await.is_none());
    };
    tokio::join!(owner, client);
}

#[tokio::test]
async fn an_end_that_is_given_early_stops_the_answer() {
    let (mut body, relaying, end) = relay(&["a"], false, LONG);
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "first");
    end.send(End::Broken("error".into())).unwrap();
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "error");
    let (_, relayed) = relaying.ended(LONG).await.unwrap();
    assert!(matches!(relayed, Relayed::Stopped), "{relayed:?}");
    assert!(matches!(next(&mut body).await, Some(Err(Aborted))));
}

#[tokio::test]
async fn a_paid_text_is_one_piece_of_known_length() {
    let mut body = ModelStream::<Pieces>::paid("paid\n".into(), Credits::ZERO);
    assert_eq!(body.size_hint().exact(), Some(5));
    assert_eq!(next(&mut body).await.unwrap().unwrap(), "paid\n");
    assert!(next(&mut body).await.is_none());
}

/// A body whose pieces come after these pauses, and which then does not end.
struct Slow(
    VecDeque<(u64, &'static str)>,
    Option<Pin<Box<tokio::time::Sleep>>>,
);

impl Body for Slow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some((seconds, _)) = self.0.front() else {
            return Poll::Pending;
        };
        let pause = Duration::from_secs(*seconds);
        let sleep = (self.1).get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        ready!(sleep.as_mut().poll(context));
        self.1 = None;
        let piece = self.0.pop_front();
        Poll::Ready(piece.map(|(_, piece)| Ok(Frame::data(piece.into()))))
    }
}

const PART: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"part\"}}]}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const COMMENT: &str = ": alive\n\n";
const THOUGHT: &str = "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"why\"}}]}\n\n";

/// Relays a stream whose server may be silent for ten seconds and without content for forty; returns how many pieces a client
/// read, how the stream ended, and after how many seconds.
async fn relay_slowly(pieces: &[(u64, &'static str)]) -> (usize, Relayed, u64) {
    let answer = Answer::text_of_events(Slow(pieces.iter().copied().collect(), None));
    let timings = Arc::new(RequestTimings::start(&Clock::default()));
    let patience = Patience::start(Duration::from_secs(10), Duration::from_secs(40));
    let start = Instant::now();
    let (mut body, relaying, end) = ModelStream::relay("first".into(), answer, patience, timings);
    let client = async {
        let mut read = 0;
        while let Some(Ok(_)) = body.frame().await {
            read += 1;
        }
        read
    };
    let owner = async {
        let (_, relayed) = relaying.ended(LONG * 100).await.unwrap();
        drop(end);
        (relayed, start.elapsed().as_secs())
    };
    let (read, (relayed, took)) = tokio::join!(client, owner);
    (read, relayed, took)
}

#[tokio::test(start_paused = true)]
async fn whatever_a_server_sends_is_a_sign_of_life_and_a_finished_answer_ends_by_itself() {
    let alive = [
        (9, COMMENT),
        (9, THOUGHT),
        (9, PART),
        (9, COMMENT),
        (9, FINISH),
    ];
    // Comments do not renew the wait for the end.
    let endless = vec![(1, COMMENT); 9];
    let (read, relayed, took) = relay_slowly(&[alive.as_slice(), &endless].concat()).await;
    assert!(matches!(relayed, Relayed::Whole), "{relayed:?}");
    assert_eq!((read, took), (2, 5 * 9 + 2));
    // Content for as long as it comes.
    let (read, relayed, took) = relay_slowly(&[[(9, PART); 20].as_slice(), &alive].concat()).await;
    assert!(matches!(relayed, Relayed::Whole), "{relayed:?}");
    assert_eq!((read, took), (22, 25 * 9 + 2));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_and_one_that_gives_no_content_time_out() {
    let late = |relayed| matches!(relayed, Relayed::Broken(UpstreamError::Timeout(_)));
    let (read, relayed, took) = relay_slowly(&[(9, PART), (11, PART)]).await;
    assert_eq!((read, late(relayed), took), (2, true, 9 + 10));
    let (read, relayed, took) =
        relay_slowly(&[[(9, PART)].as_slice(), &[(9, COMMENT); 9]].concat()).await;
    assert_eq!((read, late(relayed), took), (2, true, 9 + 40));
}

// Follows a job's events: by a stream while the page can be seen and the browser has connections to spare, by asking otherwise.

// HTTP/1.1 gives a browser six connections to a host; streams of all tabs together take half of them.
const SLOTS = 3;
const ASK_EVERY = 3000;

export class Stream {
  /** `onEvents(list)` gets events after `last()`; `onGap()` is called instead when too much was missed to replay. */
  constructor(url, { last, onEvents, onGap, onState }) {
    this.url = url;
    this.last = last;
    this.onEvents = onEvents;
    this.onGap = onGap;
    this.onState = onState;
    this.ended = false;
    this.hiddenSince = null;
    document.addEventListener("visibilitychange", () => this.onVisibility());
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", (event) => event.persisted && this.open());
  }

  address(extra = "") {
    return `${this.url}?after=${this.last()}${extra}`;
  }

  /** Starts following, if the page can be seen and nothing runs yet. */
  async open() {
    if (this.ended || document.hidden || this.source || this.asking || this.opening) return;
    this.opening = true;
    const taken = await this.takeSlot();
    this.opening = false;
    if (taken) this.listen();
    else this.ask();
  }

  /** True when one of the browser's slots for streams is ours; without the Locks API (plain HTTP beyond localhost) always. */
  async takeSlot() {
    if (!navigator.locks) return true;
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const taken = await new Promise((resolve) => {
        navigator.locks
          .request(`luthier-stream-${slot}`, { ifAvailable: true }, (lock) => {
            if (!lock) return resolve(false);
            return new Promise((release) => {
              this.release = release;
              resolve(true);
            });
          })
          .catch(() => resolve(false));
      });
      if (taken) return true;
    }
    return false;
  }

  listen() {
    if (this.ended || document.hidden) return this.close();
    const source = new EventSource(this.address());
    this.source = source;
    source.addEventListener("open", () => this.onState?.("live"));
    source.addEventListener("message", (message) => this.onEvents([JSON.parse(message.data)]));
    source.addEventListener("end", () => this.end());
    source.addEventListener("error", () => {
      this.onState?.("lost");
      // The browser tries again by itself unless the answer was an error.
      if (source.readyState === EventSource.CLOSED) {
        this.close();
        setTimeout(() => this.open(), 2000);
      }
    });
  }

  async ask() {
    if (this.ended || document.hidden) return;
    this.asking = setTimeout(() => {
      this.asking = null;
      this.open();
    }, ASK_EVERY);
    try {
      for (let more = true; more && this.asking; ) {
        const answer = await fetch(this.address("&format=json"), { cache: "no-store" });
        if (!answer.ok) throw new Error(String(answer.status));
        const body = await answer.json();
        this.onState?.("live");
        if (body.events.length > 0) this.onEvents(body.events);
        more = body.more;
        if (body.ended) this.end();
      }
    } catch {
      this.onState?.("lost");
    }
  }

  end() {
    this.ended = true;
    this.close();
    this.onState?.("ended");
  }

  close() {
    this.source?.close();
    this.source = null;
    clearTimeout(this.asking);
    this.asking = null;
    this.release?.();
    this.release = null;
  }

  async onVisibility() {
    if (document.hidden) {
      this.hiddenSince = Date.now();
      this.close();
      return;
    }
    // After a long absence a thinned-out series is a smaller answer than every event since.
    if (this.hiddenSince && Date.now() - this.hiddenSince > 60_000 && !this.ended) await this.onGap();
    this.hiddenSince = null;
    this.open();
  }
}

// Numbers and times as people read them; the same rules as the server's pages.

/** "3 minutes ago" for a number of seconds. */
export function ago(seconds) {
  if (seconds < 5) return "just now";
  const [count, unit] =
    seconds < 60 ? [seconds, "second"] : seconds < 3600 ? [seconds / 60, "minute"] : seconds < 86400 ? [seconds / 3600, "hour"] : [seconds / 86400, "day"];
  const whole = Math.floor(count);
  return `${whole} ${unit}${whole === 1 ? "" : "s"} ago`;
}

/** The time of day of an RFC 3339 time, in the viewer's zone. */
export function clock(iso) {
  return new Date(iso).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
}

/** A measured value to four digits that count. */
export function value(number) {
  if (number == null || Number.isNaN(number)) return "–";
  if (!Number.isFinite(number)) return number > 0 ? "∞" : "−∞";
  const size = Math.abs(number);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e5) return number.toExponential(3).replace(/\.?0+e/, "e").replace("e+", "e");
  return number.toFixed(Math.min(6, Math.max(0, 3 - Math.floor(Math.log10(size)))));
}

/** A short number for an axis. */
export function tick(number) {
  if (number == null) return "";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e9)) return number.toExponential().replace("e+", "e");
  if (size >= 1e6) return `${Number((number / 1e6).toPrecision(6))}M`;
  if (size >= 1e4) return `${Number((number / 1e3).toPrecision(6))}k`;
  return String(Number(number.toPrecision(6)));
}

/** "2:05" or "1:02:05" for a number of seconds. */
export function duration(seconds) {
  const whole = Math.round(seconds);
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours > 0 ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** "1.9 GB", in powers of 1000. */
export function bytes(count) {
  if (count < 1000) return `${count} B`;
  let size = count / 1000;
  let unit = 0;
  while (size >= 999.5 && unit < 4) {
    size /= 1000;
    unit += 1;
  }
  return `${size.toFixed(size < 9.95 ? 1 : 0)} ${["kB", "MB", "GB", "TB", "PB"][unit]}`;
}

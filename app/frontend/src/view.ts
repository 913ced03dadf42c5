/** One upload in `GET /api/events`. Made by `longhaul/web/views.py`, which documents each field. */
export interface View {
  id: string;
  state: string;
  active: boolean;
  gone: boolean;
  filename: string;
  page_url: string;
  size_text: string;
  created: string;
  created_text: string;
  state_text: string;
  hint: string;
  upload_percent: number;
  upload_text: string;
  process_percent: number | null;
  process_text: string;
  mismatched: boolean;
  can_retry: boolean;
  can_remove: boolean;
}

/** What this window shows of a file that it is sending. */
export interface Sending {
  phase: "checking" | "waiting" | "sending" | "paused" | "reconnecting" | "comparing" | "failed";
  /** Whether it has an upload. Before that there is nothing to pause or to delete. */
  begun: boolean;
  percent: number;
  text: string;
  hint: string;
}

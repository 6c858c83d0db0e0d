/** Core Lightning's codes of payments and invoices, and the refusals that carry them. */
import { type ArcusError, failedPrecondition, notFound } from "common/grpc/errors.ts";

/** Codes of pay, sendpay and their kin. */
export const PayCode = {
  inProgress: 200,
  rhashAlreadyUsed: 201,
  unparseableOnion: 202,
  destinationPermFail: 203,
  tryOtherRoute: 204,
  routeNotFound: 205,
  routeTooExpensive: 206,
  invoiceExpired: 207,
  noSuchPayment: 208,
  unspecified: 209,
  stoppedRetrying: 210,
} as const;

/** Codes of invoices. */
export const InvoiceCode = {
  labelAlreadyExists: 900,
  preimageAlreadyExists: 901,
  expiredDuringWait: 903,
  waitTimedOut: 904,
  notFound: 905,
  statusUnexpected: 906,
  noDescription: 908,
} as const;

type Details = Readonly<Record<string, string>>;

/** A payment that cannot be, or could not. */
export function payRefusal(code: number, reason: string, message: string, details: Details = {}): ArcusError {
  const make = code === PayCode.noSuchPayment ? notFound : failedPrecondition;
  return make(reason, message, { clnCode: code, details });
}

/** The same of an invoice. */
export function invoiceRefusal(
  code: number,
  reason: string,
  message: string,
  details: Details = {},
): ArcusError {
  const make = code === InvoiceCode.notFound ? notFound : failedPrecondition;
  return make(reason, message, { clnCode: code, details });
}

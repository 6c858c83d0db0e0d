/** The commands of payments and invoices. */
import { unimplemented } from "common/grpc/errors.ts";
import type { Handlers } from "./handlers.ts";

/** Names of the commands here. */
export type PaymentCommand =
  | "invoice"
  | "listInvoices"
  | "delInvoice"
  | "waitInvoice"
  | "waitAnyInvoice"
  | "decode"
  | "pay"
  | "xpay"
  | "sendPay"
  | "waitSendPay"
  | "listPays"
  | "listSendPays"
  | "keySend"
  | "setChannel"
  | "preApproveInvoice"
  | "listHtlcs";

/** The commands of payments and invoices. */
export function paymentCommands(): Handlers<PaymentCommand> {
  const none = () => {
    throw unimplemented("NOT_BUILT", "not here yet");
  };
  return {
    invoice: none,
    listInvoices: none,
    delInvoice: none,
    waitInvoice: none,
    waitAnyInvoice: none,
    decode: none,
    pay: none,
    xpay: none,
    sendPay: none,
    waitSendPay: none,
    listPays: none,
    listSendPays: none,
    keySend: none,
    setChannel: none,
    preApproveInvoice: none,
    listHtlcs: none,
  };
}

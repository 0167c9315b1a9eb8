import {
  Alias,
  AliasChange,
  CreateAliasRequest,
  PromoteAliasRequest,
  RollbackAliasRequest,
  UpdateAliasRequest,
} from '../contract/aliases.ts';
import { AuditEntry, AuditVerdict } from '../contract/audit.ts';
import { Batch, CreateBatchRequest } from '../contract/batches.ts';
import { ChatChunk, ChatCompletion, ChatRequest, InputTokens } from '../contract/chat.ts';
import {
  CreateDatasetRequest,
  CreateDatasetValidationRequest,
  Dataset,
  DatasetValidation,
  Subset,
  UpdateDatasetRequest,
} from '../contract/datasets.ts';
import { ErrorEnvelope } from '../contract/errors.ts';
import {
  CreateEvalRequest,
  CreateEvalRunRequest,
  DeletedEval,
  DeletedEvalRun,
  Eval,
  EvalOutputItem,
  EvalRun,
  UpdateEvalRequest,
} from '../contract/evals.ts';
import { Deleted, FileObject } from '../contract/files.ts';
import { Health, Readiness, Version } from '../contract/health.ts';
import { CreateJobRequest, FineTuningJob, JobCheckpoint, JobEvent } from '../contract/jobs.ts';
import {
  ApiKey,
  CreateKeyRequest,
  CreateTenantRequest,
  RotateKeyRequest,
  Tenant,
  UpdateKeyRequest,
  UpdateTenantRequest,
} from '../contract/keys.ts';
import { Model } from '../contract/models.ts';
import {
  CreateScheduleRequest,
  NextRuns,
  Schedule,
  ScheduleRun,
  UpdateScheduleRequest,
} from '../contract/schedules.ts';
import { ScoreRequest, ScoreResponse } from '../contract/score.ts';
import { CompleteUploadRequest, CreateUploadRequest, Upload, UploadPart } from '../contract/uploads.ts';
import { UsagePage, UsageRecord } from '../contract/usage.ts';
import {
  CreateWebhookEndpointRequest,
  RedeliverWebhooksRequest,
  RotateWebhookSecretRequest,
  UpdateWebhookEndpointRequest,
  WebhookDelivery,
  WebhookEndpoint,
  WebhookEvent,
  WebhookRedelivery,
  WebhookTest,
} from '../contract/webhooks.ts';

/** Named schemas; requests and answers refer to them. */
export const SCHEMAS = {
  ChatRequest,
  ChatCompletion,
  ChatChunk,
  InputTokens,
  ScoreRequest,
  ScoreResponse,
  Model,
  FileObject,
  Deleted,
  CreateUploadRequest,
  CompleteUploadRequest,
  Upload,
  UploadPart,
  CreateBatchRequest,
  Batch,
  CreateDatasetRequest,
  UpdateDatasetRequest,
  Subset,
  Dataset,
  CreateDatasetValidationRequest,
  DatasetValidation,
  CreateJobRequest,
  FineTuningJob,
  JobEvent,
  JobCheckpoint,
  CreateWebhookEndpointRequest,
  WebhookEndpoint,
  WebhookEvent,
  UpdateWebhookEndpointRequest,
  RotateWebhookSecretRequest,
  RedeliverWebhooksRequest,
  WebhookRedelivery,
  WebhookDelivery,
  WebhookTest,
  CreateScheduleRequest,
  UpdateScheduleRequest,
  Schedule,
  ScheduleRun,
  NextRuns,
  CreateAliasRequest,
  UpdateAliasRequest,
  PromoteAliasRequest,
  RollbackAliasRequest,
  Alias,
  AliasChange,
  CreateEvalRequest,
  UpdateEvalRequest,
  Eval,
  CreateEvalRunRequest,
  EvalRun,
  EvalOutputItem,
  DeletedEval,
  DeletedEvalRun,
  CreateTenantRequest,
  UpdateTenantRequest,
  Tenant,
  CreateKeyRequest,
  UpdateKeyRequest,
  RotateKeyRequest,
  ApiKey,
  AuditEntry,
  AuditVerdict,
  UsagePage,
  UsageRecord,
  Health,
  Readiness,
  Version,
  ErrorEnvelope,
} as const;
export type SchemaName = keyof typeof SCHEMAS;

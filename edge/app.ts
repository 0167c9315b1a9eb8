/** The route table. Everything under /v1 wants an API key, everything under /internal a backend's signature; what is open is listed first. */
import { Hono } from 'hono';
import { LIMITS } from '../shared/contract/limits.ts';
import type { AppEnv } from './env.ts';
import { rateLimits } from './limits/admitted.ts';
import { apiKey, closedByDefault } from './middleware/auth.ts';
import { cors } from './middleware/cors.ts';
import { drain } from './middleware/drain.ts';
import { notFound, onError } from './middleware/errors.ts';
import { idempotency } from './middleware/idempotency.ts';
import { log } from './middleware/log.ts';
import { requestId } from './middleware/requestId.ts';
import { sealAudit } from './middleware/sealAudit.ts';
import { shed } from './middleware/shed.ts';
import { signed } from './middleware/signed.ts';
import { trace } from './middleware/trace.ts';
import { listAuditRoute, verifyAudit } from './routes/adminAudit.ts';
import {
  createKeyRoute,
  listKeysRoute,
  retrieveKey,
  revokeKeyRoute,
  rotateKeyRoute,
  updateKeyRoute,
} from './routes/adminKeys.ts';
import { createTenantRoute, listTenantsRoute, retrieveTenant, updateTenantRoute } from './routes/adminTenants.ts';
import {
  aliasHistory,
  createAlias,
  listAllAliases,
  promoteAlias,
  removeAlias,
  retrieveAlias,
  rollbackAlias,
  updateAlias,
} from './routes/aliases.ts';
import { cancelBatch, createBatch, listAllBatches, retrieveBatch } from './routes/batches.ts';
import { createChatCompletion } from './routes/chat.ts';
import {
  appendToDataset,
  createDataset,
  listAllDatasets,
  removeDataset,
  retrieveDataset,
  updateDataset,
} from './routes/datasets.ts';
import {
  cancelDatasetValidation,
  createDatasetValidation,
  listDatasetValidations,
  retrieveDatasetValidation,
} from './routes/datasetValidations.ts';
import { evalReport, linkedEvalReport } from './routes/evalReports.ts';
import {
  cancelEvalRun,
  createEvalRun,
  listEvalItems,
  listEvalRuns,
  removeEvalRun,
  retrieveEvalItem,
  retrieveEvalRun,
} from './routes/evalRuns.ts';
import { changeEval, createEval, listAllEvals, removeEval, retrieveEval } from './routes/evals.ts';
import { createFile, fileContent, listAllFiles, removeFile, retrieveFile } from './routes/files.ts';
import { health, live, ready, version } from './routes/health.ts';
import { countInputTokens } from './routes/inputTokens.ts';
import { reportBackend } from './routes/internalBackends.ts';
import { addCheckpoint, addEvaluation, getCheckpointFile, putCheckpointFile } from './routes/internalCheckpoints.ts';
import { addEvalItems, evalItems, evalLines, evalReportPage, putEvalReport } from './routes/internalEvals.ts';
import { getFeatures, putFeatures } from './routes/internalFeatures.ts';
import { jobImage, taskImage } from './routes/internalImages.ts';
import { addEvents, claimJob, finishJob, heartbeatJob, stageJobFile } from './routes/internalJobs.ts';
import { announceCheckpointFile, outsideDue, outsideGone } from './routes/internalOutside.ts';
import { internalFileContent, modelFile, modelManifest } from './routes/internalStore.ts';
import { claimTask, finishTask, heartbeatTask, putTaskProblems, reportProgress } from './routes/internalTasks.ts';
import {
  cancelJob,
  createJob,
  jobCheckpoints,
  jobEvents,
  listAllJobs,
  pauseJob,
  resumeJob,
  retrieveJob,
} from './routes/jobs.ts';
import { metricsAccess, showMetrics } from './routes/metrics.ts';
import { listAllModels, removeModel, retrieveModel } from './routes/models.ts';
import { openApi } from './routes/openapi.ts';
import {
  createSchedule,
  listAllSchedules,
  nextScheduleRuns,
  pauseSchedule,
  removeSchedule,
  resumeSchedule,
  retrieveSchedule,
  retrieveScheduleRun,
  runSchedule,
  scheduleRuns,
  updateSchedule,
} from './routes/schedules.ts';
import { createScore } from './routes/score.ts';
import { addUploadPart, cancelUpload, completeUploadFile, createUpload, retrieveUpload } from './routes/uploads.ts';
import { listUsageRecords, retrieveUsage } from './routes/usage.ts';
import {
  listAllWebhookEvents,
  listWebhookDeliveries,
  redeliverWebhook,
  retrieveWebhookDelivery,
  retrieveWebhookEvent,
} from './routes/webhookDeliveries.ts';
import {
  createWebhookEndpoint,
  listWebhookEndpoints,
  redeliverWebhooks,
  removeWebhookEndpoint,
  retrieveWebhookEndpoint,
  rotateWebhookSecret,
  testWebhookEndpoint,
  updateWebhookEndpoint,
} from './routes/webhookEndpoints.ts';
import { mountSeams } from './seams.ts';

export function createApp(): Hono<AppEnv> {
  const app = new Hono<AppEnv>();
  app.use(requestId(), log(), trace(), cors(), drain(), closedByDefault(), sealAudit());
  app.onError(onError);
  app.notFound((c) => notFound(app.routes)(c));

  app.get('/health', health);
  app.get('/health/live', live);
  app.get('/health/ready', ready);
  app.get('/version', version);
  app.get('/openapi.json', openApi);
  app.use('/metrics', metricsAccess(apiKey()));
  app.get('/metrics', showMetrics);

  app.use('/v1/*', apiKey(), rateLimits(), idempotency());
  app.get('/v1/limits', (c) => c.json(LIMITS));
  app.get('/v1/usage', retrieveUsage);
  app.get('/v1/usage/records', listUsageRecords);
  app.post('/v1/chat/completions', shed(), createChatCompletion);
  app.post('/v1/chat/completions/input_tokens', countInputTokens);
  app.post('/v1/score', shed(), createScore);
  app.get('/v1/models', listAllModels);
  app.get('/v1/models/:id{.+}', retrieveModel);
  app.delete('/v1/models/:id{.+}', removeModel);
  app.post('/v1/files', createFile);
  app.get('/v1/files', listAllFiles);
  app.get('/v1/files/:id', retrieveFile);
  app.delete('/v1/files/:id', removeFile);
  app.get('/v1/files/:id/content', fileContent);
  app.post('/v1/uploads', createUpload);
  app.get('/v1/uploads/:id', retrieveUpload);
  app.post('/v1/uploads/:id/parts', addUploadPart);
  app.post('/v1/uploads/:id/complete', completeUploadFile);
  app.post('/v1/uploads/:id/cancel', cancelUpload);
  app.post('/v1/batches', createBatch);
  app.get('/v1/batches', listAllBatches);
  app.get('/v1/batches/:id', retrieveBatch);
  app.post('/v1/batches/:id/cancel', cancelBatch);
  app.post('/v1/datasets', createDataset);
  app.get('/v1/datasets', listAllDatasets);
  app.get('/v1/datasets/:id', retrieveDataset);
  app.post('/v1/datasets/:id', updateDataset);
  app.delete('/v1/datasets/:id', removeDataset);
  app.post('/v1/datasets/:id/files', appendToDataset);
  app.post('/v1/dataset_validations', createDatasetValidation);
  app.get('/v1/dataset_validations', listDatasetValidations);
  app.get('/v1/dataset_validations/:id', retrieveDatasetValidation);
  app.post('/v1/dataset_validations/:id/cancel', cancelDatasetValidation);
  app.post('/v1/fine_tuning/jobs', createJob);
  app.get('/v1/fine_tuning/jobs', listAllJobs);
  app.get('/v1/fine_tuning/jobs/:id', retrieveJob);
  app.post('/v1/fine_tuning/jobs/:id/cancel', cancelJob);
  app.post('/v1/fine_tuning/jobs/:id/pause', pauseJob);
  app.post('/v1/fine_tuning/jobs/:id/resume', resumeJob);
  app.get('/v1/fine_tuning/jobs/:id/events', jobEvents);
  app.get('/v1/fine_tuning/jobs/:id/checkpoints', jobCheckpoints);
  app.post('/v1/schedules', createSchedule);
  app.get('/v1/schedules', listAllSchedules);
  app.get('/v1/schedules/:id', retrieveSchedule);
  app.post('/v1/schedules/:id', updateSchedule);
  app.delete('/v1/schedules/:id', removeSchedule);
  app.post('/v1/schedules/:id/run', runSchedule);
  app.post('/v1/schedules/:id/pause', pauseSchedule);
  app.post('/v1/schedules/:id/resume', resumeSchedule);
  app.get('/v1/schedules/:id/next', nextScheduleRuns);
  app.get('/v1/schedules/:id/runs', scheduleRuns);
  app.get('/v1/schedules/:id/runs/:run', retrieveScheduleRun);
  app.post('/v1/aliases', createAlias);
  app.get('/v1/aliases', listAllAliases);
  app.get('/v1/aliases/:id', retrieveAlias);
  app.post('/v1/aliases/:id', updateAlias);
  app.delete('/v1/aliases/:id', removeAlias);
  app.post('/v1/aliases/:id/promote', promoteAlias);
  app.post('/v1/aliases/:id/rollback', rollbackAlias);
  app.get('/v1/aliases/:id/history', aliasHistory);
  app.post('/v1/evals', createEval);
  app.get('/v1/evals', listAllEvals);
  app.get('/v1/evals/:id', retrieveEval);
  app.post('/v1/evals/:id', changeEval);
  app.delete('/v1/evals/:id', removeEval);
  app.post('/v1/evals/:id/runs', createEvalRun);
  app.get('/v1/evals/:id/runs', listEvalRuns);
  app.get('/v1/evals/:id/runs/:run', retrieveEvalRun);
  app.post('/v1/evals/:id/runs/:run', cancelEvalRun);
  app.delete('/v1/evals/:id/runs/:run', removeEvalRun);
  app.get('/v1/evals/:id/runs/:run/report', evalReport);
  app.get('/reports/:token/:run', linkedEvalReport);
  app.get('/v1/evals/:id/runs/:run/output_items', listEvalItems);
  app.get('/v1/evals/:id/runs/:run/output_items/:item', retrieveEvalItem);
  app.post('/v1/webhook_endpoints', createWebhookEndpoint);
  app.get('/v1/webhook_endpoints', listWebhookEndpoints);
  app.get('/v1/webhook_endpoints/:id', retrieveWebhookEndpoint);
  app.post('/v1/webhook_endpoints/:id', updateWebhookEndpoint);
  app.delete('/v1/webhook_endpoints/:id', removeWebhookEndpoint);
  app.post('/v1/webhook_endpoints/:id/rotate_secret', rotateWebhookSecret);
  app.post('/v1/webhook_endpoints/:id/test', testWebhookEndpoint);
  app.post('/v1/webhook_endpoints/:id/redeliver', redeliverWebhooks);
  app.get('/v1/webhook_deliveries', listWebhookDeliveries);
  app.get('/v1/webhook_deliveries/:id', retrieveWebhookDelivery);
  app.post('/v1/webhook_deliveries/:id/redeliver', redeliverWebhook);
  app.get('/v1/webhook_events', listAllWebhookEvents);
  app.get('/v1/webhook_events/:id', retrieveWebhookEvent);

  app.post('/v1/admin/tenants', createTenantRoute);
  app.get('/v1/admin/tenants', listTenantsRoute);
  app.get('/v1/admin/tenants/:id', retrieveTenant);
  app.post('/v1/admin/tenants/:id', updateTenantRoute);
  app.post('/v1/admin/keys', createKeyRoute);
  app.get('/v1/admin/keys', listKeysRoute);
  app.get('/v1/admin/keys/:id', retrieveKey);
  app.post('/v1/admin/keys/:id', updateKeyRoute);
  app.post('/v1/admin/keys/:id/rotate', rotateKeyRoute);
  app.post('/v1/admin/keys/:id/revoke', revokeKeyRoute);
  app.get('/v1/admin/audit', listAuditRoute);
  app.post('/v1/admin/audit/verify', verifyAudit);

  app.use('/internal/*', signed());
  if (globalThis.MANTIS_TEST_SEAMS === true) mountSeams(app);
  app.post('/internal/backends/register', reportBackend);
  app.post('/internal/backends/heartbeat', reportBackend);
  app.post('/internal/jobs/claim', claimJob);
  app.post('/internal/jobs/:id/heartbeat', heartbeatJob);
  app.post('/internal/jobs/:id/events', addEvents);
  app.put('/internal/jobs/:id/checkpoints/:step/:name', putCheckpointFile);
  app.get('/internal/jobs/:id/checkpoints/:step/:name', getCheckpointFile);
  app.post('/internal/jobs/:id/checkpoints', addCheckpoint);
  app.post('/internal/jobs/:id/checkpoints/:step/files', announceCheckpointFile);
  app.post('/internal/jobs/:id/checkpoints/:step/evaluation', addEvaluation);
  app.put('/internal/jobs/:id/staged', stageJobFile);
  app.post('/internal/outside/due', outsideDue);
  app.post('/internal/outside/gone', outsideGone);
  app.post('/internal/jobs/:id/finish', finishJob);
  app.post('/internal/tasks/claim', claimTask);
  app.post('/internal/tasks/:id/heartbeat', heartbeatTask);
  app.post('/internal/tasks/:id/finish', finishTask);
  app.post('/internal/tasks/:id/progress', reportProgress);
  app.put('/internal/tasks/:id/problems', putTaskProblems);
  app.get('/internal/tasks/:id/lines', evalLines);
  app.get('/internal/tasks/:id/items', evalItems);
  app.post('/internal/tasks/:id/items', addEvalItems);
  app.post('/internal/tasks/:id/report', putEvalReport);
  app.get('/internal/tasks/:id/report', evalReportPage);
  app.get('/internal/tasks/:id/images', taskImage);
  app.get('/internal/jobs/:id/images', jobImage);
  app.get('/internal/files/:id/content', internalFileContent);
  app.get('/internal/models/:id', modelManifest);
  app.get('/internal/models/:id/files/:name', modelFile);
  app.get('/internal/features/:tenant/:name', getFeatures);
  app.put('/internal/features/:tenant/:name', putFeatures);
  return app;
}

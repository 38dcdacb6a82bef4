# Fits by glmmTMB with covariance structures other than the unstructured one: writes structures.json.
#
#     Rscript make_structures.R [folder with data/]
#
# Needs R with glmmTMB and jsonlite. Standard deviations and correlation are those of VarCorr.
suppressMessages({library(glmmTMB); library(jsonlite)})
options(digits = 15)
arguments <- commandArgs(trailingOnly = TRUE)
folder <- if (length(arguments)) arguments[1] else "."
sleep <- read.csv(file.path(folder, "data", "sleepstudy.csv"))
sleep$Subject <- factor(sleep$Subject)
sleep$day <- factor(sleep$Days)
epil <- read.csv(file.path(folder, "data", "epil.csv"))
epil$subject <- factor(epil$subject)
epil$visit <- factor(epil$period)

fit <- function(id, formula, data, dataset, family) {
  tight <- glmmTMBControl(optCtrl = list(iter.max = 2000, eval.max = 4000, rel.tol = 1e-14))
  model <- glmmTMB(as.formula(formula), data, family = family, control = tight)
  block <- VarCorr(model)$cond[[1]]
  coefficients <- summary(model)$coefficients$cond
  list(id = id, formula = formula, dataset = dataset, family = family,
       engine = paste("glmmTMB", packageVersion("glmmTMB")),
       logLik = as.numeric(logLik(model)),
       fixef = as.list(fixef(model)$cond), se = as.list(coefficients[, "Std. Error"]),
       sd = as.numeric(attr(block, "stddev")),
       correlation = unname(attr(block, "correlation")))
}

fits <- list(
  fit("sleep_diag", "Reaction ~ Days + diag(Days | Subject)", sleep, "sleepstudy", "gaussian"),
  fit("sleep_cs", "Reaction ~ Days + cs(Days | Subject)", sleep, "sleepstudy", "gaussian"),
  fit("sleep_cs_days", "Reaction ~ Days + cs(0 + day | Subject)", sleep, "sleepstudy", "gaussian"),
  fit("epil_ar1", "y ~ lbase * trt + lage + ar1(0 + visit | subject)", epil, "epil", "poisson"),
  fit("epil_cs", "y ~ lbase * trt + lage + cs(0 + visit | subject)", epil, "epil", "poisson"),
  fit("epil_diag", "y ~ lbase * trt + lage + diag(0 + visit | subject)", epil, "epil", "poisson"))
write_json(fits, file.path(folder, "structures.json"), digits = NA, auto_unbox = TRUE, pretty = TRUE)

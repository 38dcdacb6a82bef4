# Marginal means, contrasts, average slopes and comparisons, and standard errors of predictions that
# depend on more than the linear predictor: writes margins.json.
#
#     Rscript make_margins.R [folder with data/ and models.json]
#
# Needs R with glmmTMB, emmeans and jsonlite. Fits are glmmTMB's, marginal means emmeans' with normal
# tests (df = Inf).
# Population averages integrate each row by R's integrate(); their standard errors, and those of
# average slopes and comparisons, are by central differences over glmmTMB's own parameters and its
# covariance of all of them.
suppressMessages({library(glmmTMB); library(emmeans); library(jsonlite)})
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE)))
source(file.path(here, "records.R"))

fit <- function(name, formula = records[[name]]$formula) {
  record <- records[[name]]
  data <- read_frame(record)
  formula <- as.formula(sub("incidence / size", "cbind(incidence, size - incidence)", formula,
                            fixed = TRUE))
  environment(formula) <- environment()
  zeros <- if (is.null(record$ziformula)) ~0 else as.formula(record$ziformula)
  do.call(glmmTMB, list(formula, data = data, family = record$family, ziformula = zeros,
                        control = tight))
}

# emmeans ------------------------------------------------------------------------------------------

numbers <- function(table) {
  table <- as.data.frame(table)
  found <- lapply(table[vapply(table, is.numeric, NA)], as.list)
  labels <- lapply(table[!vapply(table, is.numeric, NA)], function(x) as.list(as.character(x)))
  c(labels, found)
}

adjustments <- c("tukey", "sidak", "bonferroni", "holm", "hochberg", "fdr", "none")

means <- function(model, specs, by = NULL, at = NULL) {
  of <- function(...) {
    emmeans(model, specs, by = by, at = if (is.null(at)) list() else at, df = Inf, ...)
  }
  found <- of()
  regrid <- of(regrid = "response")
  contrasts <- function(grid, methods = c("tukey", "holm"), ...) {
    lapply(setNames(methods, methods),
           function(adjust) numbers(summary(pairs(grid), adjust = adjust, infer = TRUE, ...)))
  }
  list(specs = specs, by = by, at = at,
       link = numbers(summary(found, infer = c(TRUE, FALSE))),
       response = numbers(summary(found, type = "response", infer = c(TRUE, FALSE))),
       regrid = numbers(summary(regrid, infer = c(TRUE, FALSE))),
       pairs = contrasts(found, adjustments),
       pairs_response = contrasts(found, type = "response"),
       pairs_regrid = contrasts(regrid),
       control = numbers(summary(contrast(found, "trt.vs.ctrl"), adjust = "holm", infer = TRUE)),
       consec = numbers(summary(contrast(found, "consec"), adjust = "sidak", infer = TRUE)),
       eff = numbers(summary(contrast(found, "eff"), adjust = "fdr", infer = TRUE)))
}

cbpp <- fit("cbpp_logit")
contraception <- fit("contraception_slope")
ticks <- fit("grouseticks_three")
crossed <- fit("contraception_slope",
               "use ~ age + I(age^2) + urban * livch + (urban | district)")
emmeans_of <- list(
  list(id = "cbpp_logit", formula = NULL, means = list(means(cbpp, "period"))),
  list(id = "contraception_slope", formula = NULL,
       means = list(means(contraception, "livch"),
                    means(contraception, "urban", at = list(age = c(-10, 5))))),
  list(id = "contraception_slope",
       formula = "use ~ age + I(age^2) + urban * livch + (urban | district)",
       means = list(means(crossed, c("urban", "livch")), means(crossed, "livch", by = "urban"))),
  list(id = "grouseticks_three", formula = NULL, means = list(means(ticks, "YEAR"))))

# averages -----------------------------------------------------------------------------------------

# theta of glmmTMB's unstructured blocks: log standard deviations, then the correlation's parameter
block <- function(theta, k) {
  if (k == 1) return(matrix(exp(theta)))
  sd <- exp(theta[1:2])
  r <- theta[3] / sqrt(1 + theta[3]^2)
  matrix(c(sd[1]^2, r * sd[1] * sd[2], r * sd[1] * sd[2], sd[2]^2), 2)
}

averaged <- function(inverse, eta, sd) {
  rows <- paste(signif(eta, 15), signif(sd, 15))
  first <- !duplicated(rows)
  own <- mapply(function(e, s) integrate(function(v) inverse(e + s * v) * dnorm(v), -12, 12,
                                         rel.tol = 1e-11, subdivisions = 500)$value,
                eta[first], sd[first])
  unname(own[match(rows, rows[first])])
}

# An average with its standard error: value(beta, variance of a row) differenced in all parameters.
with_error <- function(model, value) {
  point <- model$fit$par
  covariance <- vcov(model, full = TRUE)
  stopifnot(nrow(covariance) == length(point))
  beta <- names(point) == "beta"
  at <- function(x) value(x[beta], block(x[names(point) == "theta"], model_size(model)))
  slope <- sapply(seq_along(point), function(j) {
    h <- 1e-4
    moved <- function(by) { x <- point; x[j] <- x[j] + by; at(x) }
    (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
  })
  slope <- matrix(slope, ncol = length(point))
  list(estimate = as.list(at(point)), se = as.list(sqrt(rowSums((slope %*% covariance) * slope))))
}
model_size <- function(model) model$modelInfo$reStruc$condReStruc[[1]]$blockSize
row_variance <- function(Z, Sigma) if (nrow(Sigma) == 1) rep(Sigma[1]^2, nrow(Z)) else
  rowSums((Z %*% Sigma) * Z)

response <- function(X, Z, population) function(beta, Sigma) {
  eta <- drop(X %*% beta)
  if (population) averaged(plogis, eta, sqrt(row_variance(Z, Sigma))) else plogis(eta)
}

periods <- data.frame(period = factor(1:4))
X <- model.matrix(~period, periods)
Z <- matrix(1, 4, 1)
predicted <- with_error(cbpp, response(X, Z, TRUE))
link_of <- with_error(cbpp, function(...) qlogis(response(X, Z, TRUE)(...)))
odds <- with_error(cbpp, function(...) {
  l <- qlogis(response(X, Z, TRUE)(...)); c(l[1] - l[2], l[1] - l[3], l[1] - l[4])
})

data <- read_frame(records$contraception_slope)
fixed <- ~ age + I(age^2) + urban + livch
rows <- function(data, population) {
  response(model.matrix(fixed, data), model.matrix(~urban, data), population)
}
of_average <- function(population, by) {
  step <- 1e-4
  wider <- transform(data, age = age + step); narrower <- transform(data, age = age - step)
  town <- transform(data, urban = factor("Y", c("N", "Y")))
  country <- transform(data, urban = factor("N", c("N", "Y")))
  five <- list(transform(data, age = age + 2.5), transform(data, age = age - 2.5))
  average <- function(x) if (is.null(by)) mean(x) else tapply(x, data[[by]], mean)
  difference <- function(a, b, over = 1) {
    first <- rows(a, population); second <- rows(b, population)
    with_error(contraception, function(...) average((first(...) - second(...)) / over))
  }
  list(population = population, by = by, age = difference(wider, narrower, 2 * step),
       urban = difference(town, country), five = difference(five[[1]], five[[2]]))
}
averages <- list(of_average(FALSE, NULL), of_average(TRUE, NULL), of_average(FALSE, "livch"))

# predictions --------------------------------------------------------------------------------------

columns <- function(found) list(fit = unname(found$fit), se = unname(found$se.fit))
parts <- function(name) {
  model <- fit(name)
  rows <- read_frame(records[[name]])[c(1:6, 200:205, 400:405), ]
  given <- function(type, ...) columns(predict(model, rows, se.fit = TRUE, type = type, ...))
  types <- c("response", "conditional", "zprob")
  list(id = name, rows = c(1:6, 200:205, 400:405),
       modes = lapply(setNames(types, types), given),
       typical = lapply(setNames(types, types), given, re.form = NA))
}

document <- list(
  versions = list(R = R.version.string, glmmTMB = as.character(packageVersion("glmmTMB")),
                  emmeans = as.character(packageVersion("emmeans"))),
  emmeans = emmeans_of,
  population = list(response = predicted, link = link_of, log_odds = odds),
  averages = averages,
  predictions = list(parts("salamanders_zip"), parts("salamanders_hurdle")))
writeLines(toJSON(document, auto_unbox = TRUE, digits = 9, null = "null"),
           file.path(folder, "margins.json"))
